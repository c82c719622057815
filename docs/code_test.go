package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The metrics of each service are those of its table, no more and no fewer.
func TestOperationsListsTheMetrics(t *testing.T) {
	page := read(t, "operations.md")
	for _, service := range []string{"gateway", "replay", "presence", "ratelimit", "tasks"} {
		prefix := "fairlead_" + service + "_"
		made := map[string]bool{}
		for _, dir := range []string{"", "/*"} {
			for _, path := range globGo(t, "../services/"+service+dir) {
				source := read(t, path)
				within := "" // what a part puts before all its names
				if m := regexp.MustCompile(`"` + prefix + `([a-z]+_)" ?\+ ?name`).FindStringSubmatch(source); m != nil {
					within = m[1]
				}
				for _, m := range regexp.MustCompile(`(?:gauge|counter)\("([a-z_]+)"|"`+prefix+`([a-z_]+)"`).FindAllStringSubmatch(source, -1) {
					if m[1] != "" {
						made[within+m[1]] = true
					} else if m[2] != "" && !strings.HasSuffix(m[2], "_") {
						made[m[2]] = true
					}
				}
			}
		}
		listed := map[string]bool{}
		for _, m := range regexp.MustCompile("(?m)^\\| `"+prefix+"([a-z_]+)").FindAllStringSubmatch(page, -1) {
			listed[m[1]] = true
		}
		if len(made) == 0 {
			t.Fatalf("no metrics found in the source of the %s", service)
		}
		for name := range made {
			if !listed[name] {
				t.Errorf("operations.md lacks %s%s", prefix, name)
			}
		}
		for name := range listed {
			if !made[name] {
				t.Errorf("operations.md lists %s%s, which does not exist", prefix, name)
			}
		}
	}
}

// globGo returns the Go files of a package, without its tests.
func globGo(t *testing.T, dir string) (paths []string) {
	t.Helper()
	all, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if !strings.HasSuffix(path, "_test.go") {
			paths = append(paths, path)
		}
	}
	return paths
}

// Every direct dependency has its reason, and every reason its dependency.
func TestDependenciesHaveReasons(t *testing.T) {
	page := read(t, "adr/0001-dependencies.md")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(page, -1) {
		named[m[1]] = true
	}
	used := map[string]bool{}
	list := exec.Command("go", "list", "-test", "-tags", "browser", "-f",
		`{{if .Module}}{{if .Module.Main}}{{range .Imports}}{{.}}{{"\n"}}{{end}}{{end}}{{end}}`, "../...")
	list.Env = append(os.Environ(), "GOOS=linux") // imports differ by platform: one answer everywhere
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		best := ""
		for module := range strings.FieldsSeq(string(modules)) {
			if (path == module || strings.HasPrefix(path, module+"/")) && len(module) > len(best) {
				best = module
			}
		}
		if best != "" && best != "github.com/fairlead-io/fairlead" {
			used[best] = true
		}
	}
	if len(used) == 0 {
		t.Fatal("go list found no dependencies")
	}
	for module := range used {
		if !named[module] {
			t.Errorf("%s is imported and not in adr/0001-dependencies.md", module)
		}
	}
	for module := range named {
		if !used[module] {
			t.Errorf("%s is in adr/0001-dependencies.md and not imported", module)
		}
	}
}
