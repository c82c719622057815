package wire

import (
	"testing"
	"unicode"
)

func TestForbiddenRune(t *testing.T) {
	for r := rune(-1); r <= unicode.MaxRune+1; r++ {
		want := unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Zs) || unicode.IsSpace(r)
		if got := forbiddenRune(r); got != want {
			t.Errorf("forbiddenRune(%U) = %v, want %v", r, got, want)
		}
	}
}

func TestForbiddenRuneExamples(t *testing.T) {
	for _, r := range []rune{
		0, '\t', '\n', ' ', 0x7F, 0x85, 0xA0, 0xAD, 0x061C, 0x1680, 0x180E,
		0x200B, 0x200D, 0x200E, 0x2028, 0x2029, 0x202E, 0x202F, 0x205F, 0x2066,
		0x3000, 0xFEFF, 0xFFF9, 0xE0001, 0xE0041,
	} {
		if !forbiddenRune(r) {
			t.Errorf("forbiddenRune(%U) = false, want true", r)
		}
	}
	for _, r := range []rune{
		'!', '.', '~', 'a', 0xA1, 0xAC, 0xAE, 'ä', 0x0301, 'я', '世', 0x2010,
		0xE000, 0xFE0F, 0xFFFD, '😀', unicode.MaxRune,
	} {
		if forbiddenRune(r) {
			t.Errorf("forbiddenRune(%U) = true, want false", r)
		}
	}
}

func BenchmarkForbiddenRune(b *testing.B) {
	for _, bench := range []struct{ name, s string }{
		{"ascii", "org:42:items.room-7.presence"},
		{"greek", "δωμάτιο.επτά"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.s)))
			for b.Loop() {
				for _, r := range bench.s {
					if forbiddenRune(r) {
						b.Fatalf("%U is forbidden", r)
					}
				}
			}
		})
	}
}
