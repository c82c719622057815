// Package k8s holds the manifests for Kubernetes, which the module in check
// reads. What needs Fairlead's own code to be checked is checked here.
package k8s

import (
	"os"
	"testing"

	"github.com/fairlead-io/fairlead/internal/rules"
)

// The rules of the base say what they mean to say.
func TestRules(t *testing.T) {
	src, err := os.ReadFile("base/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := rules.Parse(src, rules.Run)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range set.RunTests() {
		t.Error(problem)
	}
	if len(set.Tests) == 0 || len(set.Warnings) > 0 {
		t.Errorf("%d tests, warnings %v", len(set.Tests), set.Warnings)
	}
}
