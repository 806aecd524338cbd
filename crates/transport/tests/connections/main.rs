//! Connections over real sockets with real TLS handshakes: who is let in, what ends them, and what runs on to its end.

#[cfg(test)]
mod dial;
#[cfg(test)]
mod end;
#[cfg(test)]
mod listen;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod test_clock;
#[cfg(test)]
mod unix;
