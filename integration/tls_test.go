package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// With a certificate the public listener speaks TLS and nothing else: what is
// on the wire is never the plain text. A new certificate is taken without a
// restart.
func TestTLSOnTheWireAndNewCertificatesWithoutARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certify(t, cert, key, 1)
	server := natsdev.Test(t)
	g := startGateway(t, server.ClientURL(), "FAIRLEAD_TLS_CERT="+cert, "FAIRLEAD_TLS_KEY="+key)
	var wire capture
	link := startLink(t, to(g.addr), &wire)
	url := "wss://" + link.addr() + "/ws"
	ann := dial(t, url, client.Options{Token: token("ann", nil), HTTPClient: web})
	room := subscribe(t, ann, "tls.room")
	const mark = "a marked message that must not be seen"
	long := `"` + strings.Repeat(mark+" ", 5000) + `"` // many writes, not only one
	for _, data := range []string{`"` + mark + `"`, long} {
		publish(t, ann, "tls.room", data)
		expect(t, room, "", data)
	}
	worker := connect(t, server.ClientURL())
	for range 100 {
		must(t, worker.Publish("fl.topic.tls.room", []byte(`"`+mark+`"`)))
	}
	for range 100 {
		expect(t, room, "", `"`+mark+`"`)
	}
	if wire.size() < 2*len(long) {
		t.Fatalf("%d bytes were captured, want all that passed", wire.size())
	}
	for _, text := range []string{mark, "tls.room", "subscribe", "HTTP/1.1"} {
		if wire.holds(text) {
			t.Errorf("%q is on the wire in plain text", text)
		}
	}
	if resp, err := web.Get("http://" + g.addr + "/healthz"); err == nil {
		if text := readAll(t, resp); resp.StatusCode == http.StatusOK {
			t.Errorf("plain HTTP: got %d %s, want it refused", resp.StatusCode, text)
		}
	}
	if _, err := tls.Dial("tcp", g.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}

	if got := serial(t, g.addr); got != 1 {
		t.Fatalf("certificate %d, want 1", got)
	}
	certify(t, cert, key, 2)
	eventually(t, "the new certificate is served", func() (any, bool) { n := serial(t, g.addr); return n, n == 2 })
	publish(t, ann, "tls.room", `"still connected"`)
	expect(t, room, "", `"still connected"`)
}

// Plain capture: the proof that the capture would see it.
func TestTheCaptureSeesPlainText(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	var wire capture
	link := startLink(t, to(g.addr), &wire)
	ann := dial(t, "ws://"+link.addr()+"/ws", client.Options{Token: token("ann", nil)})
	room := subscribe(t, ann, "plain.room")
	publish(t, ann, "plain.room", `"marked"`)
	expect(t, room, "ann", `"marked"`)
	if !wire.holds(`"marked"`) { // from the gateway: what a client sends is masked
		t.Error("the capture does not hold what passed")
	}
}

func serial(t *testing.T, addr string) int64 {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// certify writes a self-signed certificate for this machine, the key first as
// a careful tool would not: a pair that does not fit must be survived.
func certify(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "fairlead test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}
