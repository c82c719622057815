package wire

import "unicode"

// forbiddenRune reports whether r may not occur in a name: controls (Cc),
// format characters (Cf), separators (Zl, Zp, Zs) and any other white space.
// They are invisible, so names that differ only in them look the same.
func forbiddenRune(r rune) bool {
	switch {
	case r <= unicode.MaxASCII:
		return r >= 0 && r <= ' ' || r == 0x7F
	case r <= unicode.MaxLatin1:
		// The C1 controls, which hold the white space U+0085, the no-break
		// space, and the soft hyphen.
		return r <= 0xA0 || r == 0xAD
	default:
		// All controls are behind us, and all other white space is in Z.
		return unicode.In(r, unicode.Cf, unicode.Z)
	}
}
