package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
)

// VersionCmd prints what this binary was built from.
type VersionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// release names what an image holds, whose build knows no revision:
// -ldflags "-X main.release=v1.2.3".
var release string

// build is what the Go tool recorded in the binary.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"` // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

// Run prints one line, or one JSON object.
func (c *VersionCmd) Run(_ context.Context, env *Env) error {
	b := readBuild()
	if c.JSON {
		return json.NewEncoder(env.Stdout).Encode(b)
	}
	s := "fairlead " + b.Version
	if len(b.Revision) >= 12 {
		s += " " + b.Revision[:12]
	}
	if b.Modified {
		s += " (modified)"
	}
	_, err := fmt.Fprintf(env.Stdout, "%s %s %s/%s\n", s, b.Go, b.OS, b.Arch)
	return err
}

func readBuild() build {
	b := build{Version: cmp.Or(release, "dev"), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" && release == "" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// version names this build in logs and telemetry.
func version() string { return readBuild().Version }
