package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// DevSecretFile is the file, inside the data directory of `fairlead dev`, that
// holds its secret: 64 hex digits, which as they stand are the HMAC secret.
const DevSecretFile = "jwt-secret"

// DevSecret returns the secret kept in dir, making both where they are
// missing. The file is readable by its owner only. Processes that start
// together on one dir get the same secret, and one that is killed on the way
// leaves no half of it.
func DevSecret(dir string) ([]byte, error) {
	secret, err := ReadDevSecret(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make secret: %w", err)
	}
	if err := writeDevSecret(dir); err != nil {
		return nil, fmt.Errorf("make secret: %w", err)
	}
	return ReadDevSecret(dir)
}

// ReadDevSecret returns the secret kept in dir. Its error is fs.ErrNotExist
// where `fairlead dev` has not made one.
func ReadDevSecret(dir string) ([]byte, error) {
	path := filepath.Join(dir, DevSecretFile)
	secret, err := ReadSecretFile(path)
	if err != nil {
		return nil, err
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("read secret: %s: %d bytes: at least %d are needed; remove the file to have a new one made", path, len(secret), minSecret)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	return secret, nil
}

// ReadSecretFile returns what a secret's file holds, without the line breaks
// at its end.
func ReadSecretFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	return bytes.TrimRight(b, "\r\n"), nil
}

// writeDevSecret makes the file whole or not at all, and leaves one that is
// there: the hard link fails then, where a rename would replace it.
func writeDevSecret(dir string) error {
	random := make([]byte, 32)
	rand.Read(random)
	f, err := os.CreateTemp(dir, DevSecretFile+"-*") // created with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(random) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	path := filepath.Join(dir, DevSecretFile)
	if err = os.Link(f.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return os.Rename(f.Name(), path) // a file system without hard links
}
