package pgdev

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// MissingError is returned by [Start] when no PostgreSQL is installed that can
// be used.
type MissingError struct {
	Bin     string // the directory that was named; "": all usual places
	Version string // the major version that the cluster needs; "": any
}

func (e *MissingError) Error() string {
	what := "PostgreSQL"
	if e.Version != "" {
		what += " " + e.Version
	}
	if e.Bin != "" {
		return fmt.Sprintf("no %s in %s: FAIRLEAD_PGBIN must name the directory of initdb and postgres", what, e.Bin)
	}
	return fmt.Sprintf("no %s found: install it (apt-get install postgresql, brew install postgresql) or set FAIRLEAD_PGBIN to the directory of initdb and postgres", what)
}

// places are where packages put PostgreSQL, as patterns.
var places = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	`C:\Program Files\PostgreSQL\*\bin`,
}

// find returns the directory of initdb and postgres: the one that is named, else
// that of initdb on the PATH, else the newest of the usual places. With a version
// only that major version will do.
func find(named, version string) (string, error) {
	if named != "" {
		if usable(named, version) {
			return named, nil
		}
		return "", &MissingError{Bin: named, Version: version}
	}
	for _, dir := range candidates() {
		if usable(dir, version) {
			return dir, nil
		}
	}
	return "", &MissingError{Version: version}
}

func candidates() (dirs []string) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	var found []string
	for _, place := range places {
		matches, err := filepath.Glob(place)
		if err != nil {
			continue // the only error is a bad pattern, and none of ours is
		}
		found = append(found, matches...)
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(release(b), release(a)) })
	return append(dirs, found...)
}

var number = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)

// release is the version in a directory's path.
func release(dir string) float64 {
	n, err := strconv.ParseFloat(number.FindString(dir), 64)
	if err != nil {
		return 0
	}
	return n
}

func usable(dir, version string) bool {
	for _, tool := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, tool+exe)); err != nil || info.IsDir() {
			return false
		}
	}
	return version == "" || versionOf(dir) == version
}

// versionOf asks the binary: "postgres (PostgreSQL) 15.14 (Debian …)".
func versionOf(dir string) string {
	out, err := exec.Command(filepath.Join(dir, "postgres"+exe), "--version").Output()
	if err != nil {
		return ""
	}
	major, _, _ := strings.Cut(number.FindString(string(out)), ".")
	return major
}

// freePort finds a port that nothing listens on, below those that the system
// hands out by itself: a server that is restarted on it finds it free again.
func freePort() (int, error) {
	const from, to, tries = 12000, 32000, 100
	var err error
	for range tries {
		port := from + rand.IntN(to-from)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
