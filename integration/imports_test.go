package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	module     = "github.com/fairlead-io/fairlead"
	natsServer = "github.com/nats-io/nats-server/"
)

// pkg is what the go tool says of a package.
type pkg struct {
	ImportPath                string
	Standard                  bool
	Imports, Deps             []string
	TestImports, XTestImports []string
}

// The picture of who may import whom, which keeps the services apart even when
// all run in one process:
//
//	cmd → internal/suite → services → internal/{bus,rules,telemetry} → pkg/wire → standard library
//
// internal/suite composes services into a process, for cmd and for the test kit
// pkg/fairleadtest, which is to others what cmd is: it may use everything, and
// nobody may use it.
func TestPackagesImportWhatThePictureAllows(t *testing.T) {
	t.Parallel()
	list := exec.Command("go", "list", "-json=ImportPath,Standard,Imports,Deps,TestImports,XTestImports", "../...")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	checked := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; checked++ {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, problem := range violations(p) {
			t.Error(problem)
		}
	}
	if checked < 10 {
		t.Errorf("%d packages were checked, want all of the module", checked)
	}
}

// violations returns what a package imports and may not, a line each.
func violations(p pkg) (found []string) {
	say := func(imported, why string) {
		found = append(found, strings.TrimPrefix(p.ImportPath, module+"/")+" → "+strings.TrimPrefix(imported, module+"/")+": "+why)
	}
	in, service := local(p.ImportPath)
	if p.ImportPath == module+"/pkg/fairleadtest" {
		in = "cmd"
	}
	for _, imported := range p.Imports {
		kind, other := local(imported)
		switch {
		case imported == module+"/pkg/fairleadtest":
			say(imported, "the test kit is for tests")
		case imported == module+"/internal/suite" && in != "cmd":
			say(imported, "a process is composed by cmd and by the test kit")
		case p.ImportPath == module+"/internal/suite" && kind == "services":
			// the one that puts them together
		case in == "services" && kind == "services" && other != service:
			say(imported, "services meet on NATS, never in imports")
		case in == "services" && kind == "cmd", in == "internal" && (kind == "cmd" || kind == "services"), in == "pkg" && (kind == "cmd" || kind == "services"):
			say(imported, "imports point down")
		case in == "pkg" && kind == "internal":
			say(imported, "pkg is for everyone")
		case imported == module+"/internal/natsdev" && in != "cmd":
			say(imported, "the embedded server is for dev and tests")
		case kind == "integration":
			say(imported, "nobody imports the tests")
		}
	}
	for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		if strings.HasPrefix(imported, natsServer) && p.ImportPath != module+"/internal/natsdev" {
			say(imported, "the server only in internal/natsdev")
		}
	}
	for _, dep := range p.Deps { // whatever the way there
		kind, _ := local(dep)
		switch {
		case p.ImportPath == module+"/pkg/wire" && strings.Contains(strings.SplitN(dep, "/", 2)[0], "."):
			say(dep, "wire needs the standard library only")
		case in == "pkg" && kind == "internal":
			say(dep, "pkg is for everyone, whatever the way there")
		case in == "services" && strings.HasPrefix(dep, natsServer):
			say(dep, "a service does not link the server")
		}
	}
	if in == "integration" {
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			allowed := []string{module + "/pkg/wire", module + "/pkg/client", module + "/pkg/fairlead", module + "/pkg/session", module + "/internal/natsdev", module + "/internal/pgdev"}
			if kind, _ := local(imported); kind != "" && !slices.Contains(allowed, imported) {
				say(imported, "the tests look at the binary from outside")
			}
		}
	}
	return found
}

// local splits an import path of this module: its first folder, and the one
// below it. Both are empty for other modules.
func local(path string) (folder, below string) {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "", ""
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) == 1 {
		return parts[0], ""
	}
	return parts[0], parts[1]
}

// A rule that matches nothing would let everything pass.
func TestTheImportRulesNotice(t *testing.T) {
	t.Parallel()
	gateway, presence := module+"/services/gateway", module+"/services/presence"
	tests := []struct {
		p    pkg
		want []string
	}{
		{pkg{ImportPath: gateway, Imports: []string{"net/http", gateway + "/outbox", module + "/internal/bus", module + "/pkg/wire"}}, nil},
		{pkg{ImportPath: gateway, Imports: []string{presence}}, []string{"services/gateway → services/presence: services meet on NATS, never in imports"}},
		{pkg{ImportPath: gateway + "/auth", Imports: []string{presence + "/roster"}}, []string{"services/gateway/auth → services/presence/roster: services meet on NATS, never in imports"}},
		{pkg{ImportPath: module + "/internal/suite", Imports: []string{gateway, presence}}, nil},
		{pkg{ImportPath: gateway, Imports: []string{module + "/internal/suite"}}, []string{"services/gateway → internal/suite: a process is composed by cmd and by the test kit"}},
		{pkg{ImportPath: module + "/pkg/fairleadtest", Imports: []string{module + "/internal/suite", module + "/internal/natsdev", gateway}, Deps: []string{module + "/internal/bus"}}, nil},
		{pkg{ImportPath: module + "/cmd/fairlead", Imports: []string{module + "/pkg/fairleadtest"}}, []string{"cmd/fairlead → pkg/fairleadtest: the test kit is for tests"}},
		{pkg{ImportPath: module + "/internal/bus", Imports: []string{gateway}}, []string{"internal/bus → services/gateway: imports point down"}},
		{pkg{ImportPath: module + "/pkg/client", Imports: []string{module + "/internal/bus"}}, []string{"pkg/client → internal/bus: pkg is for everyone"}},
		{pkg{ImportPath: module + "/pkg/client", TestImports: []string{module + "/internal/natsdev"}}, nil},
		{pkg{ImportPath: module + "/pkg/wire", Deps: []string{"unicode/utf8", "github.com/google/uuid"}}, []string{"pkg/wire → github.com/google/uuid: wire needs the standard library only"}},
		{pkg{ImportPath: gateway, Imports: []string{module + "/internal/natsdev"}}, []string{"services/gateway → internal/natsdev: the embedded server is for dev and tests"}},
		{pkg{ImportPath: module + "/cmd/fairlead", Imports: []string{module + "/internal/natsdev", gateway}}, nil},
		{pkg{ImportPath: gateway, TestImports: []string{natsServer + "v2/server"}}, []string{"services/gateway → github.com/nats-io/nats-server/v2/server: the server only in internal/natsdev"}},
		{pkg{ImportPath: module + "/internal/natsdev", Imports: []string{natsServer + "v2/server"}}, nil},
		{pkg{ImportPath: module + "/integration", TestImports: []string{module + "/pkg/client", module + "/internal/bus"}}, []string{"integration → internal/bus: the tests look at the binary from outside"}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, violations(test.p)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.p.ImportPath, diff)
		}
	}
}
