package docs

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of workers.md are those that are run: each block of Go and
// Python, and each of JavaScript on NATS, is one of the files, and no file is
// left out.
func TestWorkersAreTheFilesThatRun(t *testing.T) {
	files := map[string]string{} // text to path
	for _, pattern := range []string{"*/*/main.go", "node/*.mjs", "python/*.py"} {
		paths, err := filepath.Glob("../examples/workers/" + pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			files[read(t, path)] = filepath.ToSlash(path)
		}
	}
	shown := map[string]bool{}
	page := read(t, "workers.md")
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		program := m[1] == "go" || m[1] == "python" || m[1] == "js" && strings.Contains(m[2], "@nats-io/transport-node")
		path := files[m[2]]
		switch {
		case path != "":
			shown[path] = true
			if !strings.Contains(page, "]("+path+")\n\n```"+m[1]+"\n"+m[2]) {
				t.Errorf("%s is not under a link to it", path)
			}
		case program:
			t.Errorf("a program that is none of examples/workers:\n%s", m[2])
		}
	}
	for _, path := range files {
		if !shown[path] {
			t.Errorf("%s is not in workers.md as it stands there", path)
		}
	}
}

// Without nats-py the workers in Python can't be run here. They are Python at
// least.
func TestPythonWorkersCompile(t *testing.T) {
	paths, err := filepath.Glob("../examples/workers/python/*.py")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	const compile = "import sys\nfor p in sys.argv[1:]: compile(open(p).read(), p, 'exec')"
	if out, err := exec.Command("python3", append([]string{"-c", compile}, paths...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
