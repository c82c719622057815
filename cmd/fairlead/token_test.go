package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// runToken parses args as the command line does and runs the command.
func runToken(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var c TokenCmd
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		return "", "", err
	}
	var out, warnings bytes.Buffer
	err = c.Run(context.Background(), &Env{Stdout: &out, Stderr: &warnings})
	return out.String(), warnings.String(), err
}

func clearTokenEnvironment(t *testing.T) {
	for _, name := range []string{"FAIRLEAD_AUTH_JWT_SECRET", "FAIRLEAD_AUTH_JWT_SECRET_FILE", "FAIRLEAD_AUTH_JWT_ISSUER", "FAIRLEAD_AUTH_JWT_AUDIENCE"} {
		t.Setenv(name, "") // so that it is put back
		os.Unsetenv(name)
	}
}

func authenticate(t *testing.T, cfg auth.JWTConfig, token string) *auth.Identity {
	t.Helper()
	if strings.Count(token, "\n") != 1 || !strings.HasSuffix(token, "\n") {
		t.Errorf("stdout is not one line: %q", token)
	}
	a, err := auth.New(auth.Config{JWT: cfg}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Authenticate(context.Background(), auth.Credentials{Token: strings.TrimSpace(token)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTokenOfDevSecret(t *testing.T) {
	clearTokenEnvironment(t)
	dir := t.TempDir()
	secret, err := auth.DevSecret(dir)
	if err != nil {
		t.Fatal(err)
	}
	token, warnings, err := runToken(t, "--user", "ann", "--data", dir)
	if err != nil {
		t.Fatal(err)
	}
	id := authenticate(t, auth.JWTConfig{Secret: secret}, token)
	if id.User != "ann" || id.Subscribe != nil || id.Info != nil || id.Attributes != nil || warnings != "" {
		t.Errorf("got %+v, warnings %q", id, warnings)
	}
	if life := id.ExpiresAt.Sub(id.IssuedAt); life != time.Hour {
		t.Errorf("it lives %s, want 1h", life)
	}
}

func TestTokenFlags(t *testing.T) {
	clearTokenEnvironment(t)
	secret := strings.Repeat("s", 40)
	t.Setenv("FAIRLEAD_AUTH_JWT_SECRET", secret)
	t.Setenv("FAIRLEAD_AUTH_JWT_ISSUER", "us")
	token, warnings, err := runToken(t, "--user", "ann", "--ttl", "36h", "--attr", "role=admin", "--attr", "q=a=b;c,d", "--name", `Ann "A"`,
		"--subscribe", "chat.>", "--subscribe", "a,b", "--publish", "chat.lobby", "--call", "orders.*", "--topic", "chat.lobby", "--audience", "them")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(warnings, "FAIRLEAD_AUTH_JWT_MAX_AGE") {
		t.Errorf("no warning about 36h: %q", warnings)
	}
	got := authenticate(t, auth.JWTConfig{Secret: []byte(secret), Issuer: "us", Audience: "them", MaxAge: 48 * time.Hour}, token)
	want := &auth.Identity{
		User: "ann", Session: got.Session, IssuedAt: got.IssuedAt, ExpiresAt: got.IssuedAt.Add(36 * time.Hour),
		Attributes: map[string]string{"role": "admin", "q": "a=b;c,d"}, Info: []byte(`{"name":"Ann \"A\""}`),
		Subscribe: []string{"chat.>", "a,b"}, Publish: []string{"chat.lobby"}, Calls: []string{"orders.*"}, Topics: []string{"chat.lobby"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTokenSecretFile(t *testing.T) {
	clearTokenEnvironment(t)
	t.Setenv("FAIRLEAD_AUTH_JWT_SECRET", strings.Repeat("x", 40))
	secret := strings.Repeat("s", 40)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token, _, err := runToken(t, "--user", "ann", "--secret-file", path)
	if err != nil {
		t.Fatal(err)
	}
	authenticate(t, auth.JWTConfig{Secret: []byte(secret)}, token)
}

func TestTokenRefused(t *testing.T) {
	clearTokenEnvironment(t)
	dir := t.TempDir()
	_, _, err := runToken(t, "--user", "ann", "--data", dir)
	if err == nil || !strings.Contains(err.Error(), "fairlead dev") {
		t.Errorf("without a secret: got %v, want advice", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Error("a secret was made that no gateway has")
	}
	t.Setenv("FAIRLEAD_AUTH_JWT_SECRET", strings.Repeat("s", 40))
	for _, args := range [][]string{
		{"--user", "anon-x"},
		{"--user", "ann", "--ttl=-1h"},
		{"--user", "ann", "--subscribe", "a..b"},
		{"--user", "ann", "--secret-file", filepath.Join(dir, "none")},
	} {
		stdout, _, err := runToken(t, args...)
		var exit *exitError
		if !errors.As(err, &exit) || exit.code != exitUsage || stdout != "" {
			t.Errorf("%q: got %q, %v, want exit code 2", args, stdout, err)
		}
	}
}
