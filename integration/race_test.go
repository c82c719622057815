//go:build race

package integration

// raceEnabled says that the binary, too, is built with the race detector.
const raceEnabled = true
