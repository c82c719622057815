package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// socketFlags say which gateway a tool talks to, and as whom.
type socketFlags struct {
	URL       string `name:"url" env:"FAIRLEAD_URL" default:"ws://127.0.0.1:8080/ws" placeholder:"URL" help:"The gateway's WebSocket address (default ${default})."`
	Token     string `env:"FAIRLEAD_TOKEN" placeholder:"JWT" help:"Who to be; without it an anonymous user, where the gateway allows those. Better in FAIRLEAD_TOKEN: arguments are seen by everyone on the machine."`
	TokenFile string `name:"token-file" placeholder:"FILE" help:"Where the token is; - is standard input."`
}

// token returns the token to connect with, "" for none.
func (f *socketFlags) token(env *Env) (string, error) {
	if f.TokenFile == "" {
		return f.Token, nil
	}
	var b []byte
	var err error
	if f.TokenFile == "-" {
		b, err = io.ReadAll(io.LimitReader(env.Stdin, 64<<10))
	} else {
		b, err = os.ReadFile(f.TokenFile)
	}
	if err != nil {
		return "", usage(fmt.Errorf("--token-file: %w", err))
	}
	return strings.TrimSpace(string(b)), nil
}

const connectTimeout = 10 * time.Second

// dial connects as the flags say. The caller closes the client.
func (f *socketFlags) dial(ctx context.Context, env *Env) (*client.Client, error) {
	token, err := f.token(env)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := client.Dial(ctx, f.URL, client.Options{Token: token, Client: "fairlead cli", Batch: true, Watchdog: true})
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, f.URL)
	}
	return c, nil
}

// payload reads a DATA argument: JSON, `-` for standard input, or with text
// any bytes, which become a JSON string.
func payload(env *Env, data string, text bool) ([]byte, error) {
	b := []byte(data)
	if data == "-" {
		var err error
		if b, err = io.ReadAll(env.Stdin); err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		b = []byte(strings.TrimRight(string(b), "\r\n"))
	}
	if text {
		return wire.AppendString(nil, string(b)), nil
	}
	if len(b) > 0 && !wire.ValidJSON(b) {
		return nil, usage(fmt.Errorf("DATA is not JSON: %.60q; --text sends it as a JSON string", b))
	}
	return b, nil
}

// stopped hides the error of a tool that the user interrupted.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return err
}

// onTerminal reports whether w shows text to a person.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// quiet closes a connection of a tool that is done with it.
func quiet(c *client.Client) { c.Close(wire.CloseNormal) }
