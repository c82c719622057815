package docs

import (
	"regexp"
	"strings"
	"testing"
)

// What crosses between regions is said of every subject there is.
func TestScalingHasEverySubject(t *testing.T) {
	contract := read(t, "nats.md")
	_, contract, _ = strings.Cut(contract, "\n## Subjects\n")
	contract, _, _ = strings.Cut(contract, "\n## ")
	_, page, _ := strings.Cut(read(t, "scaling.md"), "\n## Regions\n")
	page, _, _ = strings.Cut(page, "\n### ")
	subjects := regexp.MustCompile("(?m)^\\| `fl\\.([a-z]+)").FindAllStringSubmatch(contract, -1)
	if len(subjects) == 0 {
		t.Fatal("no subjects found in nats.md")
	}
	for _, m := range subjects {
		if !strings.Contains(page, "`fl."+m[1]+".") && !strings.Contains(page, "`fl."+m[1]+"`") {
			t.Errorf("scaling.md does not say of fl.%s whether it crosses", m[1])
		}
	}
}

// The metrics and alerts that say when to add something exist.
func TestScalingNamesWhatExists(t *testing.T) {
	operations := read(t, "operations.md")
	names := regexp.MustCompile("`(fairlead_[a-z_]+|Fairlead[A-Z][A-Za-z]+)`").FindAllStringSubmatch(read(t, "scaling.md"), -1)
	if len(names) == 0 {
		t.Fatal("no metrics or alerts found in scaling.md")
	}
	for _, m := range names {
		if !strings.Contains(operations, "| `"+m[1]+"` |") {
			t.Errorf("scaling.md names %s, which operations.md does not list", m[1])
		}
	}
}
