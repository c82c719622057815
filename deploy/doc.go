// Package deploy has no code: it is where the tests of compose.yaml and of what
// is beside this file live. They need no Docker.
package deploy
