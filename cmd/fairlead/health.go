package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// HealthCmd asks a process of this machine whether it is well: the health
// check of a container, which has no shell and no curl.
type HealthCmd struct {
	URL     string        `name:"url" placeholder:"URL" help:"What to ask. Default: /healthz at FAIRLEAD_HTTP_ADDR (:8080), or at FAIRLEAD_ADMIN_ADDR with --admin."`
	Ready   bool          `help:"Ask /readyz: whether it can serve, not only whether it lives."`
	Admin   bool          `help:"Ask at the admin address."`
	Timeout time.Duration `default:"3s" help:"How long to wait (default ${default})."`
}

// Run exits with 0 if the answer is 200.
func (c *HealthCmd) Run(ctx context.Context, env *Env) error {
	url := c.URL
	if url == "" {
		url = healthURL(c.Admin, os.Getenv)
	}
	if c.Ready {
		url = strings.TrimSuffix(url, "/healthz")
		if !strings.HasSuffix(url, "/readyz") {
			url = strings.TrimSuffix(url, "/") + "/readyz"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage(fmt.Errorf("--url: %w", err))
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if c.URL == "" { // this very machine: the certificate names another host
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("UNAVAILABLE: %w", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // for people: what could be read
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("UNAVAILABLE: %s: HTTP %d %s", url, resp.StatusCode, text)
	}
	_, err = fmt.Fprintln(env.Stdout, text)
	return err
}

// healthURL is where a process with this environment answers.
func healthURL(admin bool, getenv func(string) string) string {
	addr, fallback := getenv("FAIRLEAD_HTTP_ADDR"), "8080"
	if admin {
		addr, fallback = getenv("FAIRLEAD_ADMIN_ADDR"), "9090"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = "", fallback
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http://"
	if !admin && getenv("FAIRLEAD_TLS_CERT") != "" {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port) + "/healthz"
}
