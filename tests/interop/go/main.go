// A workload over go-spiffe that is driven by lines; see ../README.md.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// How long one answer may take.
const patience = 30 * time.Second

type peer struct {
	client *workloadapi.Client
	source *workloadapi.X509Source
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx := context.Background()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return fmt.Errorf("opening the Workload API: %w", err)
	}
	defer client.Close()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return fmt.Errorf("waiting for an X.509-SVID: %w", err)
	}
	defer source.Close()
	p := &peer{client, source}

	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeAny())
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	go serve(listener)
	fmt.Println("ready", svid.ID, listener.Addr().(*net.TCPAddr).Port)

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		ctx, cancel := context.WithTimeout(ctx, patience)
		answer, err := p.answer(ctx, strings.Fields(lines.Text()))
		cancel()
		if err != nil {
			answer = "failed " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	return lines.Err()
}

func (p *peer) answer(ctx context.Context, words []string) (string, error) {
	switch {
	case len(words) == 1 && words[0] == "serial":
		svid, err := p.source.GetX509SVID()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("serial %x", svid.Certificates[0].SerialNumber), nil
	case len(words) == 3 && words[0] == "call":
		return p.call(ctx, words[1], words[2])
	case len(words) == 2 && words[0] == "jwt":
		return p.jwt(ctx, words[1])
	case len(words) == 1 && words[0] == "bundle":
		return p.bundle(ctx)
	default:
		return "", errors.New("not understood")
	}
}

func (p *peer) call(ctx context.Context, address, callee string) (string, error) {
	id, err := spiffeid.FromString(callee)
	if err != nil {
		return "", err
	}
	dialer := tls.Dialer{Config: tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeID(id))}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(patience))
	said, err := io.ReadAll(io.LimitReader(connection, 4096))
	if err != nil {
		return "", err
	}
	return "called " + strings.TrimSpace(string(said)), nil
}

func (p *peer) jwt(ctx context.Context, audience string) (string, error) {
	svid, err := p.client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return "", err
	}
	// Once by the Workload API, once by the library with the bundles that the Workload API gives.
	validated, err := p.client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
	if err != nil {
		return "", fmt.Errorf("validating by the Workload API: %w", err)
	}
	bundles, err := p.client.FetchJWTBundles(ctx)
	if err != nil {
		return "", err
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{audience}); err != nil {
		return "", fmt.Errorf("validating with the bundles: %w", err)
	}
	return fmt.Sprintf("jwt %s %s", svid.ID, validated.ID), nil
}

func (p *peer) bundle(ctx context.Context) (string, error) {
	svid, err := p.source.GetX509SVID()
	if err != nil {
		return "", err
	}
	bundles, err := p.client.FetchJWTBundles(ctx)
	if err != nil {
		return "", err
	}
	bundle, err := bundles.GetJWTBundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("bundle %d", len(bundle.JWTAuthorities())), nil
}

func serve(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go greet(connection.(*tls.Conn))
	}
}

func greet(connection *tls.Conn) {
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(patience))
	if err := connection.Handshake(); err != nil {
		fmt.Fprintln(os.Stderr, "handshake:", err)
		return
	}
	id, err := x509svid.IDFromCert(connection.ConnectionState().PeerCertificates[0])
	if err != nil {
		return
	}
	fmt.Fprintf(connection, "you are %s\n", id)
}
