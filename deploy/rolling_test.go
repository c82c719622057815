package deploy

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rolling.sh replaces what there may be several of, and restarts the rest in place.
func TestRollingKnowsTheServices(t *testing.T) {
	script := read(t, "rolling.sh")
	inPlace := regexp.MustCompile(`(?m)^ +(.*)\) restart "\$service"`).FindStringSubmatch(script)
	unnamed := regexp.MustCompile(`set -- ([a-z ]+);`).FindStringSubmatch(script)
	if inPlace == nil || unnamed == nil {
		t.Fatal("rolling.sh is not as this test reads it")
	}
	for name, s := range services(t) {
		ours := strings.HasPrefix(s.Image, "fairlead:")
		if got := slices.Contains(strings.Fields(unnamed[1]), name); got != ours {
			t.Errorf("%s: replaced when nobody is named: %v, want %v", name, got, ours)
		}
		got := slices.ContainsFunc(strings.Split(inPlace[1], " | "), func(pattern string) bool {
			matches, err := path.Match(pattern, name)
			return matches && err == nil
		})
		if got == ours {
			t.Errorf("%s: restarted in place: %v, want %v", name, got, !ours)
		}
	}
}

// engine stands in for docker: a container is a file SERVICE.NUMBER that says its
// state and version. What compose does with containers that have ended, it does.
const engine = `#!/bin/sh
cd "$CONTAINERS"
for last; do :; done
case "$*" in
  "compose config") echo name: test; echo services: ;;
  "compose config --services") echo gateway; echo nats ;;
  "ps -q --filter "*) [ "$FAULT" != three ] || echo nats-2.1 ;;
  "compose ps -q "*) grep -l running "$last".* 2>/dev/null; true ;;
  "compose ps -aq "*) ls "$last".* 2>/dev/null; true ;;
  "compose rm -f "*) for c in $(grep -l exited "$last".* 2>/dev/null); do rm "$c"; done ;;
  "compose up "*)
    for c in $(grep -l exited "$last".* 2>/dev/null); do echo running old >"$c"; exit; done
    echo running new >"$last.$$"
    [ "$FAULT" != broken ] || { echo the disk is full; exit 1; } ;;
  "inspect "*) [ "$FAULT" = sick ] && echo starting || echo healthy ;;
  "logs "*) echo the variable is missing ;;
  "stop "*) ;;
  "rm "*) rm "$last" ;;
  *) echo "what is $*"; exit 1 ;;
esac
`

// roll runs rolling.sh on containers, and returns what there is then, what it said
// and whether it succeeded.
func roll(t *testing.T, fault string, containers map[string]string, services ...string) (left map[string][]string, said string, ok bool) {
	t.Helper()
	bin, dir, locks := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(engine), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, state := range containers {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if fault == "locked" {
		if err := os.Mkdir(filepath.Join(locks, "fairlead-rolling-test"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"rolling.sh"}, services...)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CONTAINERS="+dir, "FAULT="+fault, "TMPDIR="+locks, "FAIRLEAD_ROLLING_WAIT=0")
	out, err := cmd.CombinedOutput()
	files, _ := os.ReadDir(dir)
	left = map[string][]string{}
	for _, f := range files {
		service, _, _ := strings.Cut(f.Name(), ".")
		left[service] = append(left[service], strings.TrimSpace(read(t, filepath.Join(dir, f.Name()))))
	}
	if locked, _ := os.ReadDir(locks); len(locked) > 0 && fault != "locked" {
		t.Errorf("it leaves its lock: %v", locked)
	}
	return left, string(out), err == nil
}

func TestRolling(t *testing.T) {
	all := map[string]string{"gateway.1": "running old", "gateway.2": "exited old", "gateway.3": "running old", "tasks.1": "running old"}
	for what, c := range map[string]struct {
		fault    string
		services []string
		before   map[string]string
		gateways []string
		says     string
		ok       bool
	}{
		"all":               {before: all, gateways: []string{"running new", "running new"}, says: "gateway: 2 replaced", ok: true},
		"one":               {services: []string{"tasks"}, before: all, gateways: []string{"running old", "exited old", "running old"}, says: "tasks: 1 replaced", ok: true},
		"compose fails":     {fault: "broken", services: []string{"gateway"}, before: all, gateways: []string{"running old", "running old"}, says: "the disk is full"},
		"the new one fails": {fault: "sick", services: []string{"gateway"}, before: all, gateways: []string{"running old", "running old"}, says: "the variable is missing"},
		"named, not there":  {services: []string{"demo"}, before: all, gateways: []string{"running old", "exited old", "running old"}, says: "demo: nothing runs"},
		"nothing there":     {says: "COMPOSE_ENV_FILES"},
		"three NATS nodes":  {fault: "three", before: all, gateways: []string{"running old", "exited old", "running old"}, says: "set COMPOSE_ENV_FILES"},
		"under way":         {fault: "locked", before: all, gateways: []string{"running old", "exited old", "running old"}, says: "another one"},
	} {
		t.Run(what, func(t *testing.T) {
			left, said, ok := roll(t, c.fault, c.before, c.services...)
			if ok != c.ok || !strings.Contains(said, c.says) {
				t.Errorf("success %v, want %v; it says %q, want %q", ok, c.ok, said, c.says)
			}
			if got := left["gateway"]; !slices.Equal(got, c.gateways) {
				t.Errorf("gateways %q, want %q", got, c.gateways)
			}
		})
	}
}
