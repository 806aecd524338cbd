package dev.countersign.interop;

import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Source;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.cert.X509Certificate;
import java.util.List;
import java.util.Set;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/** A workload over java-spiffe that is driven by lines; see ../README.md. */
public final class Peer {
    /** Milliseconds that one step may take. */
    private static final int PATIENCE = 30_000;

    private static final int MAX_TEXT = 4096;
    /** The kind of name in a certificate that is a URI (RFC 5280, 4.2.1.6). */
    private static final int URI_NAME = 6;

    private final WorkloadApiClient client;
    private final X509Source source;

    private Peer() throws Exception {
        client = DefaultWorkloadApiClient.newClient();
        source = DefaultX509Source.newSource();
    }

    public static void main(String[] args) throws Exception {
        Peer peer = new Peer();
        SSLServerSocket listener = peer.listen();
        Thread serving = new Thread(() -> serve(listener));
        serving.setDaemon(true);
        serving.start();
        System.out.println("ready " + peer.source.getX509Svid().getSpiffeId() + " " + listener.getLocalPort());

        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            System.out.println(peer.answered(line.trim().split(" ")));
        }
        System.exit(0);
    }

    private String answered(String[] words) {
        try {
            return answer(words);
        } catch (Exception error) {
            return "failed " + String.valueOf(error).replace('\n', ' ');
        }
    }

    private String answer(String[] words) throws Exception {
        switch (words[0] + "/" + words.length) {
            case "serial/1":
                X509Certificate leaf = source.getX509Svid().getChain().get(0);
                return "serial " + leaf.getSerialNumber().toString(16);
            case "call/3":
                return "called " + call(words[1], words[2]);
            case "jwt/2":
                JwtSvid svid = client.fetchJwtSvid(words[1]);
                JwtSvid validated = client.validateJwtSvid(svid.getToken(), words[1]);
                return "jwt " + svid.getSpiffeId() + " " + validated.getSpiffeId();
            case "bundle/1":
                var domain = source.getX509Svid().getSpiffeId().getTrustDomain();
                var bundle = client.fetchJwtBundles().getBundleForTrustDomain(domain);
                return "bundle " + bundle.getJwtAuthorities().size();
            default:
                throw new IllegalArgumentException("not understood");
        }
    }

    private String call(String address, String callee) throws Exception {
        SSLContext context = SpiffeSslContextFactory.getSslContext(SslContextOptions.builder()
                .x509Source(source)
                .acceptedSpiffeIdsSupplier(() -> Set.of(SpiffeId.parse(callee)))
                .build());
        int colon = address.lastIndexOf(':');
        String host = address.substring(0, colon);
        int port = Integer.parseInt(address.substring(colon + 1));
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(host, port)) {
            socket.setSoTimeout(PATIENCE);
            byte[] said = socket.getInputStream().readNBytes(MAX_TEXT);
            return new String(said, StandardCharsets.UTF_8).trim();
        }
    }

    private SSLServerSocket listen() throws Exception {
        SSLContext context = SpiffeSslContextFactory.getSslContext(
                SslContextOptions.builder().x509Source(source).acceptAnySpiffeId().build());
        SSLServerSocket listener = (SSLServerSocket)
                context.getServerSocketFactory().createServerSocket(0, 0, InetAddress.getLoopbackAddress());
        listener.setNeedClientAuth(true);
        return listener;
    }

    private static void serve(SSLServerSocket listener) {
        while (true) {
            try {
                SSLSocket socket = (SSLSocket) listener.accept();
                Thread greeting = new Thread(() -> greet(socket));
                greeting.setDaemon(true);
                greeting.start();
            } catch (IOException error) {
                return;
            }
        }
    }

    private static void greet(SSLSocket socket) {
        try (socket) {
            socket.setSoTimeout(PATIENCE);
            X509Certificate caller = (X509Certificate) socket.getSession().getPeerCertificates()[0];
            for (List<?> name : caller.getSubjectAlternativeNames()) {
                if (name.get(0).equals(URI_NAME)) {
                    byte[] text = ("you are " + name.get(1) + "\n").getBytes(StandardCharsets.UTF_8);
                    socket.getOutputStream().write(text);
                }
            }
        } catch (Exception error) {
            System.err.println("handshake: " + error);
        }
    }
}
