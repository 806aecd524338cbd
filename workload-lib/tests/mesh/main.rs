//! The cases of the specification's section 10, through the real layers over real mutual TLS, and joining by a real
//! Workload API.

mod agent;
mod case_01_to_04;
mod case_05_to_07;
mod case_08_to_11;
mod case_12_to_14;
mod case_15_to_16;
mod forge;
mod grpc;
mod join;
mod world;
