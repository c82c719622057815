package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// minSecret is the shortest HMAC secret, in bytes.
const minSecret = 32

// minRSA is the smallest RSA modulus, in bits.
const minRSA = 2048

// methods lists every signing method that some key may verify. `none` is not
// among them.
var methods = []string{"HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"}

// key verifies tokens of the methods it lists and no others: what a token's
// header says can't make a public key serve as an HMAC secret.
type key struct {
	id       string // `kid`; "" matches only tokens without one
	methods  []string
	material any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// keySource finds the keys that may have signed a token.
type keySource interface {
	// lookup returns the keys for a token with this `kid` ("" if it has none).
	// It returns UNAUTHENTICATED if there is none, and UNAVAILABLE while the
	// source can't tell.
	lookup(ctx context.Context, kid string) ([]key, error)
	// run keeps the keys fresh until ctx is done.
	run(ctx context.Context) error
}

// fixedKeys are the keys of a secret or a file. A token's `kid` says nothing
// about them and is ignored.
type fixedKeys []key

func (f fixedKeys) lookup(context.Context, string) ([]key, error) { return f, nil }

func (fixedKeys) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func secretKeys(secret []byte) (fixedKeys, error) {
	if len(secret) < minSecret {
		return nil, fmt.Errorf("FAIRLEAD_AUTH_JWT_SECRET: %d bytes: at least %d are needed (openssl rand -hex 32)", len(secret), minSecret)
	}
	if bytes.HasPrefix(bytes.TrimSpace(secret), []byte("-----BEGIN ")) {
		return nil, errors.New("FAIRLEAD_AUTH_JWT_SECRET: holds a PEM block: a public key goes to FAIRLEAD_AUTH_JWT_PUBLIC_KEY_FILE")
	}
	return fixedKeys{{methods: []string{"HS256", "HS384", "HS512"}, material: bytes.Clone(secret)}}, nil
}

func fileKeys(path string) (fixedKeys, error) {
	const variable = "FAIRLEAD_AUTH_JWT_PUBLIC_KEY_FILE"
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	var keys fixedKeys
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		material, err := parsePublicKey(block)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", variable, path, err)
		}
		k, err := publicKey("", material)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", variable, path, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: %s: holds no PEM public key or certificate", variable, path)
	}
	return keys, nil
}

func parsePublicKey(block *pem.Block) (any, error) {
	switch {
	case block.Type == "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case block.Type == "CERTIFICATE":
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return certificate.PublicKey, nil
	case strings.Contains(block.Type, "PRIVATE"):
		return nil, errors.New("holds a private key: a gateway needs the public one only")
	}
	return nil, fmt.Errorf("PEM block %q: allowed are PUBLIC KEY, RSA PUBLIC KEY and CERTIFICATE", block.Type)
}

// publicKey pins the one method that fits the type of material.
func publicKey(id string, material any) (key, error) {
	switch m := material.(type) {
	case *rsa.PublicKey:
		if m.N.BitLen() < minRSA {
			return key{}, fmt.Errorf("RSA key of %d bits: at least %d are needed", m.N.BitLen(), minRSA)
		}
		if m.E < 3 || m.E&1 == 0 {
			return key{}, errors.New("RSA key with an unusable exponent")
		}
		return key{id: id, methods: []string{"RS256"}, material: m}, nil
	case *ecdsa.PublicKey:
		if m.Curve != elliptic.P256() {
			return key{}, errors.New("ECDSA key: only P-256 (ES256) is taken")
		}
		return key{id: id, methods: []string{"ES256"}, material: m}, nil
	case ed25519.PublicKey:
		return key{id: id, methods: []string{"EdDSA"}, material: m}, nil
	}
	return key{}, fmt.Errorf("key of type %T: allowed are RSA, ECDSA P-256 and Ed25519", material)
}

// verifying returns the material of the keys that may verify method.
func verifying(keys []key, method string) []any {
	var fit []any
	for _, k := range keys {
		if slices.Contains(k.methods, method) {
			fit = append(fit, k.material)
		}
	}
	return fit
}
