package wire

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// checkNFC compares isNFC with x/text, from which its tables are made.
func checkNFC(t interface {
	Helper()
	Errorf(format string, args ...any)
}, s string) {
	t.Helper()
	if got, want := isNFC(s), norm.NFC.IsNormalString(s); got != want {
		t.Errorf("isNFC(%+q) = %v, want %v", s, got, want)
	}
}

// inert tells whether normalization leaves r alone wherever it stands.
func inert(r rune) bool {
	return !utf8.ValidRune(r) || norm.NFC.PropertiesString(string(r)).BoundaryAfter()
}

func TestNFCVersion(t *testing.T) {
	if nfcUnicodeVersion != norm.Version {
		t.Errorf("nfc_tables.go holds Unicode %s, x/text has %s: run go generate in pkg/wire", nfcUnicodeVersion, norm.Version)
	}
}

func TestNFCExamples(t *testing.T) {
	marks := func(n int) string { return strings.Repeat("\u0334", n) }
	for _, test := range []struct {
		name, s string
		want    bool
	}{
		{"empty", "", true},
		{"ascii", "chat.room-7", true},
		{"composed", "caf\u00e9", true},
		{"decomposed", "cafe\u0301", false},
		{"mark alone", "\u0301", true},
		{"marks in order", "q\u0323\u0307", true},
		{"marks out of order", "q\u0307\u0323", false},
		{"blocked by the same class", "a\u030d\u0301", true},
		{"second mark of one class", "\u00e9\u0301", true},
		{"third part composes", "\u1ea1\u0302", false},
		{"lower class composes past a composed mark", "\u00e2\u0323", false},
		{"lower class stays after a composed mark", "\u00e9\u0334", true},
		{"composes over a lower class", "e\u0334\u0301", false},
		{"blocked by a starter", "e\u034f\u0301", true},
		{"singleton", "\u212b", false},
		{"composition exclusion, decomposed", "\u0915\u093c", true},
		{"composition exclusion, composed", "\u0958", false},
		{"starter as second part", "\u0dd9\u0dcf", false},
		{"three parts", "\u0dd9\u0dcf\u0dca", false},
		{"outside the first plane", "\U00011099\U000110ba", false},
		{"hangul syllables", "\ud55c\uae00", true},
		{"hangul lead and vowel", "\u1112\u1161", false},
		{"hangul syllable and trail", "\ud558\u11ab", false},
		{"hangul full syllable and trail", "\ud55c\u11ab", true},
		{"hangul two leads", "\u1112\u1112", true},
		{"hangul trail after a mark", "\ud558\u0334\u11ab", true},
		{"30 marks", "a" + marks(30), true},
		{"31 marks", "a" + marks(31), false},
		{"29 marks after a composed one", "\u00e9" + marks(29), true},
		{"30 marks after a composed one", "\u00e9" + marks(30), false},
		{"31 marks, parted", "a" + marks(15) + "b" + marks(16), true},
		{"malformed", "a\xffb", true},
		{"decomposed after malformed", "\xffe\u0301", false},
		{"decomposed before truncated", "e\u0301\xe4\xb8", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := isNFC(test.s); got != test.want {
				t.Errorf("isNFC(%+q) = %v, want %v", test.s, got, test.want)
			}
			checkNFC(t, test.s)
		})
	}
}

func TestNFCEveryRune(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		// Planes in which nothing is assigned, or only by private agreement: some of them.
		if !utf8.ValidRune(r) || r >= 0x40000 && r>>16 != 0xE && r%101 != 0 {
			continue
		}
		s := string(r)
		checkNFC(t, s)
		// Out of order if r is taken for a joiner of any class.
		checkNFC(t, "q\u0345"+s+"\u0334")
		if inert(r) {
			continue
		}
		for _, before := range []string{"a", "\u00e2", "o\u031b", "\u0dd9", "\u1100", "\uac00", "\u0f71"} {
			checkNFC(t, before+s)
		}
		for _, after := range []string{"\u0301", "\u0323", "\u0334", "\u0345", "\u1161", "\u11a8", "\u0dca"} {
			checkNFC(t, s+after)
		}
		checkNFC(t, norm.NFD.String(s))
		checkNFC(t, norm.NFC.String(s))
	}
}

// TestNFCPairs has every first part of a composition meet every rune that can
// be a second part, also over a mark in between.
func TestNFCPairs(t *testing.T) {
	firsts := map[rune]bool{0x1100: true, 0x1112: true, 0xAC00: true, 0xAC01: true, 0xD788: true}
	seconds := map[rune]bool{0x1160: true, 0x1161: true, 0x1175: true, 0x1176: true, 0x11A7: true, 0x11A8: true, 0x11C2: true, 0x11C3: true}
	for i := range len(nfcPairs) / nfcPairLen {
		pair := nfcPairOf(i)
		firsts[pair.first], firsts[pair.composite] = true, true
		seconds[pair.second] = true
		if got, want := string(pair.composite), norm.NFC.String(string(pair.first)+string(pair.second)); got != want {
			t.Errorf("%U and %U compose into %+q, want %+q", pair.first, pair.second, got, want)
		}
	}
	if len(firsts) < 1000 || len(seconds) < 60 {
		t.Fatalf("got %d first and %d second parts, want all of them", len(firsts), len(seconds))
	}
	for first := range firsts {
		for second := range seconds {
			checkNFC(t, string(first)+string(second))
			checkNFC(t, string(first)+"\u0327"+string(second))
			checkNFC(t, string(first)+"\u0307"+string(second))
		}
	}
}

func TestNFCHangul(t *testing.T) {
	for lead := rune(0x10FF); lead <= 0x1113; lead++ {
		for vowel := rune(0x1160); vowel <= 0x1176; vowel++ {
			checkNFC(t, string(lead)+string(vowel))
		}
	}
	for syllable := rune(0xABFF); syllable <= 0xD7A4; syllable++ {
		for trail := rune(0x11A6); trail <= 0x11C3; trail++ {
			checkNFC(t, string(syllable)+string(trail))
		}
	}
}

// TestNFCJoiners has every rune lead a segment around the limit, but only some
// of the syllables, which are all alike.
func TestNFCJoiners(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if inert(r) || r > hangulBase+2*hangulTrails && r < hangulBase+hangulCount-2*hangulTrails {
			continue
		}
		for _, mark := range []string{"\u0334", "\u0301", "\u035d", "\u11a8"} {
			for n := nfcMaxJoiners - nfcMaxWeight; n <= nfcMaxJoiners+1; n++ {
				checkNFC(t, string(r)+strings.Repeat(mark, n))
			}
		}
	}
}

// nfcRunes are the runes that take part in normalization, with their
// decompositions, and a few that do not.
func nfcRunes() []rune {
	runes := []rune{'a', 'e', 'q', 'A', 'Å', 'я', '世', '😀', 0x034F, 0x1100, 0x1161, 0x11A8, 0xAC00, 0xAC01, utf8.RuneError}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if class := nfcClassOf(r); class.joins() || class.excluded() && r < 0xF900 {
			runes = append(runes, r)
		}
	}
	for i := range len(nfcPairs) / nfcPairLen {
		pair := nfcPairOf(i)
		runes = append(runes, pair.first, pair.second, pair.composite)
	}
	return runes
}

func TestNFCProperty(t *testing.T) {
	special := rapid.SampledFrom(nfcRunes())
	mark := rapid.SampledFrom([]rune{0x0301, 0x0302, 0x0307, 0x0308, 0x031B, 0x0323, 0x0327, 0x0334, 0x0338, 0x0345, 0x0F71, 0x1161, 0x11A8, 0x0DCA})
	runes := rapid.SliceOfN(rapid.OneOf(special, mark, rapid.Rune()), 0, 40)
	rapid.Check(t, func(t *rapid.T) {
		s := string(runes.Draw(t, "runes"))
		checkNFC(t, s)
		checkNFC(t, norm.NFC.String(s))
		checkNFC(t, norm.NFD.String(s))
		cut := rapid.IntRange(0, len(s)).Draw(t, "cut")
		checkNFC(t, s[:cut])
		checkNFC(t, s[cut:])
		checkNFC(t, s[cut:]+s[:cut])
	})
}

func FuzzNFC(f *testing.F) {
	for _, s := range []string{
		"", "chat.room-7", "café", "cafe\u0301", "\u00e2\u0323", "\u1112\u1161\u11ab", "\u0dd9\u0dcf\u0dca",
		"\u212b", "a" + strings.Repeat("\u0334", 31), "\xff\u0301", "\xf0\u0340", "\xe1\x84", "\xed\xa0\x80\u0301", "\U00011099\U000110ba",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkNFC(t, s)
		normal := norm.NFC.String(s)
		checkNFC(t, normal)
		if utf8.ValidString(s) && !isNFC(normal) {
			t.Errorf("isNFC(%+q) = false for a normalized string", normal)
		}
	})
}

func TestNFCAllocations(t *testing.T) {
	for _, s := range []string{
		"org:42:items.room-7", "δωμάτιο", "q\u0323\u0307", "e\u0301", "\ud558\u11ab", "a" + strings.Repeat("\u0301", 30),
	} {
		if got := testing.AllocsPerRun(10, func() { isNFC(s) }); got != 0 {
			t.Errorf("isNFC(%+q): %v allocations, want 0", s, got)
		}
	}
}

func BenchmarkNFC(b *testing.B) {
	for _, bench := range []struct{ name, s string }{
		{"ascii", "org:42:items.room-7.presence"},
		{"latin", "café.zürich.søren"},
		{"cjk", "聊天室.第七个房间"},
		{"marks", "q\u0323\u0307.q\u0323\u0307"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.s)))
			for b.Loop() {
				if !isNFC(bench.s) {
					b.Fatal("not normal")
				}
			}
		})
	}
}
