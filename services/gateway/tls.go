package gateway

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificateCheck is how often a handshake looks whether the certificate's
// file has changed.
const certificateCheck = 10 * time.Second

// tlsConfig returns the public listener's TLS configuration, nil without TLS.
func (g *Service) tlsConfig() (*tls.Config, error) {
	if g.cfg.TLSCert == "" {
		return nil, nil
	}
	c := &certificate{certFile: g.cfg.TLSCert, keyFile: g.cfg.TLSKey}
	if err := c.load(); err != nil {
		return nil, problem("TLS_CERT", g.cfg.TLSCert, err.Error())
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // WebSockets upgrade from HTTP/1.1
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current(func(err error) { g.log.Warn("reload certificate", "err", err) }), nil
		},
	}, nil
}

// certificate is a key pair that follows its files. A pair that can't be read
// leaves the last good one in force.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	pair    *tls.Certificate
	checked time.Time
	changed time.Time // of the certificate's file, when it was read
}

func (c *certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

func (c *certificate) read() error {
	info, err := os.Stat(c.certFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	c.checked = time.Now()
	if c.pair != nil && info.ModTime().Equal(c.changed) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	c.pair, c.changed = &pair, info.ModTime()
	return nil
}

func (c *certificate) current(report func(error)) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) > certificateCheck {
		if err := c.read(); err != nil {
			c.checked = time.Now()
			report(err)
		}
	}
	return c.pair
}
