package rules

import (
	_ "embed"
	"fmt"
)

//go:embed builtin.run.yaml
var builtinRun []byte

//go:embed builtin.dev.yaml
var builtinDev []byte

// BuiltinSource returns the rules that count where there is no file and nothing
// in the bucket, as YAML.
func BuiltinSource(mode Mode) []byte {
	if mode == Dev {
		return builtinDev
	}
	return builtinRun
}

// Builtin returns the set of [BuiltinSource].
func Builtin(mode Mode) *Set {
	s, err := Parse(BuiltinSource(mode), mode)
	if err != nil {
		panic(fmt.Sprintf("built-in rules: %v", err)) // a test parses both
	}
	return s
}
