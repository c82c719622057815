package auth

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func TestDevSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := ReadDevSecret(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read before it is made: got %v, want fs.ErrNotExist", err)
	}
	const starts = 8
	secrets := make([][]byte, starts)
	var wg sync.WaitGroup
	for i := range starts {
		wg.Go(func() {
			var err error
			if secrets[i], err = DevSecret(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range secrets {
		if len(s) != 64 || !bytes.Equal(s, secrets[0]) {
			t.Errorf("got %d bytes, same as the first: %t", len(s), bytes.Equal(s, secrets[0]))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v, want the secret alone", entries, err)
	}
	path := filepath.Join(dir, DevSecretFile)
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := DevSecret(dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
		}
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := DevSecret(dir); err == nil {
		t.Error("a short secret is accepted")
	}
}
