package wire

import (
	"sort"
	"unicode/utf8"
)

//go:generate go run ./internal/gennfc

// Names are compared byte by byte everywhere, so a topic is accepted in one
// spelling only: Normalization Form C. The check is exact, not the quick check,
// since the quick check answers "maybe" for every combining mark. It equals
// norm.NFC.IsNormalString of golang.org/x/text for every string; the tables
// are generated from that package because this one imports nothing.
//
// A segment is a rune and the joiners after it: runes with a combining class,
// or runes that may compose with what stands before them. No segment acts on
// another one, so each is judged alone. A segment of plain joiners needs only
// an ordered sequence of classes; one with a possible composition is
// decomposed, ordered and composed again, and has to come out unchanged.

const (
	// nfcMaxJoiners is the limit of the Stream-Safe Text Format (UAX #15). A
	// segment with more joiners counts as not normal, which also bounds the
	// work and the buffer that one segment needs.
	nfcMaxJoiners = 30

	// nfcMaxWeight is the largest nfcClass.weight.
	nfcMaxWeight = 3

	// nfcFirstSpecial is the first rune that is not simply normal wherever it
	// stands.
	nfcFirstSpecial = 0x300
)

// nfcClass is what normalization has to know about one rune.
type nfcClass uint16

// combining is the canonical combining class, 0 for a starter.
func (c nfcClass) combining() uint8 { return uint8(c) }

// composes tells whether the rune may compose with one before it.
func (c nfcClass) composes() bool { return c&(1<<8) != 0 }

// excluded tells whether the rune occurs in no normal string.
func (c nfcClass) excluded() bool { return c&(1<<9) != 0 }

// weight is what the rune takes of nfcMaxJoiners.
func (c nfcClass) weight() int { return int(c >> 10) }

// joins tells whether the rune belongs to the segment of the rune before it.
func (c nfcClass) joins() bool { return c.combining() != 0 || c.composes() }

// isNFC reports whether s is in Unicode Normalization Form C. It does not
// allocate. A malformed byte counts as a starter that composes with nothing; a
// sequence cut off by the end of s ends the check.
func isNFC(s string) bool {
	i := 0
	for i < len(s) && s[i] < utf8.RuneSelf {
		i++
	}
	if i == len(s) {
		return true
	}

	start := max(i-1, 0) // of the segment
	joiners := 0         // their weight
	check := false       // a joiner may compose
	var last uint8       // combining class of the rune before i
	for i < len(s) {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
			if size == 1 && truncated(s[i:]) {
				break
			}
		}
		var class nfcClass
		if r >= nfcFirstSpecial {
			class = nfcClassOf(r)
		}
		if class.excluded() {
			return false
		}
		if !class.joins() {
			if !segmentIsNFC(s[start:i], joiners, check) {
				return false
			}
			start, joiners, check = i, 0, false
		} else {
			if joiners += class.weight(); joiners > nfcMaxJoiners {
				return false
			}
			if class.combining() != 0 && class.combining() < last {
				return false
			}
			check = check || class.composes()
		}
		last = class.combining()
		i += size
	}
	return segmentIsNFC(s[start:i], joiners, check)
}

// truncated tells whether s ends before the sequence that its first byte
// announces.
func truncated(s string) bool {
	switch c := s[0]; {
	case c < 0xC2 || c >= 0xF8:
		return false
	case c < 0xE0:
		return len(s) < 2
	case c < 0xF0:
		return len(s) < 3
	default:
		return len(s) < 4
	}
}

// segmentIsNFC judges one segment without excluded runes and with its classes
// in order. joiners is their weight; check is false if none of them composes.
func segmentIsNFC(segment string, joiners int, check bool) bool {
	if joiners > nfcMaxJoiners-nfcMaxWeight {
		first, _ := utf8.DecodeRuneInString(segment)
		if class := nfcClassOf(first); !class.joins() && joiners+class.weight() > nfcMaxJoiners {
			return false
		}
	}
	if !check {
		return true
	}
	var b nfcBuffer
	for _, r := range segment {
		b.add(r)
	}
	b.compose()
	n := 0
	for _, r := range segment {
		if n >= b.n || b.runes[n] != r {
			return false
		}
		n++
	}
	return n == b.n
}

// nfcBuffer normalizes one segment. A first rune decomposes into at most
// 1+nfcMaxWeight runes, a joiner into as many as its weight.
type nfcBuffer struct {
	runes   [1 + nfcMaxWeight + nfcMaxJoiners]rune
	classes [1 + nfcMaxWeight + nfcMaxJoiners]uint8
	n       int
}

// add appends the full canonical decomposition of r, in canonical order.
func (b *nfcBuffer) add(r rune) {
	if first, second, ok := nfcDecompose(r); ok {
		b.add(first)
		b.add(second)
		return
	}
	class := nfcClassOf(r).combining()
	i := b.n
	if class != 0 {
		for ; i > 0 && b.classes[i-1] > class; i-- {
			b.runes[i], b.classes[i] = b.runes[i-1], b.classes[i-1]
		}
	}
	b.runes[i], b.classes[i] = r, class
	b.n++
}

// compose composes each rune with the last starter unless something between
// them blocks it: a rune of the same or a higher class, or another starter. The
// buffer is not empty.
func (b *nfcBuffer) compose() {
	starter, n := 0, 1
	for i := 1; i < b.n; i++ {
		before := b.classes[n-1]
		if before == 0 {
			starter = n - 1
		}
		if starter == n-1 || before < b.classes[i] {
			if r, ok := nfcCompose(b.runes[starter], b.runes[i]); ok {
				b.runes[starter] = r
				continue
			}
		}
		b.runes[n], b.classes[n] = b.runes[i], b.classes[i]
		n++
	}
	b.n = n
}

// Hangul syllables decompose and compose by arithmetic (The Unicode Standard,
// section 3.12): leading consonant, vowel, and a trailing consonant or none.
const (
	hangulBase  = 0xAC00
	hangulCount = hangulLeads * hangulVowels * hangulTrails

	hangulLead  = 0x1100
	hangulVowel = 0x1161
	hangulTrail = 0x11A7 // stands for "none"

	hangulLeads  = 19
	hangulVowels = 21
	hangulTrails = 28
)

// nfcDecompose takes the last step of the composition of r back.
func nfcDecompose(r rune) (first, second rune, ok bool) {
	if h := r - hangulBase; h >= 0 && h < hangulCount {
		if trail := h % hangulTrails; trail != 0 {
			return r - trail, hangulTrail + trail, true
		}
		h /= hangulTrails
		return hangulLead + h/hangulVowels, hangulVowel + h%hangulVowels, true
	}
	n := len(nfcComposites) / nfcIndexLen
	i := sort.Search(n, func(i int) bool { return nfcPairAt(i).composite >= r })
	if i == n {
		return 0, 0, false
	}
	pair := nfcPairAt(i)
	return pair.first, pair.second, pair.composite == r
}

// nfcCompose returns the rune that first and second compose into.
func nfcCompose(first, second rune) (composite rune, ok bool) {
	if l, v := first-hangulLead, second-hangulVowel; l >= 0 && l < hangulLeads && v >= 0 && v < hangulVowels {
		return hangulBase + (l*hangulVowels+v)*hangulTrails, true
	}
	if h, t := first-hangulBase, second-hangulTrail; h >= 0 && h < hangulCount && h%hangulTrails == 0 && t > 0 && t < hangulTrails {
		return first + t, true
	}
	n := len(nfcPairs) / nfcPairLen
	i := sort.Search(n, func(i int) bool {
		pair := nfcPairOf(i)
		return pair.first > first || pair.first == first && pair.second >= second
	})
	if i == n {
		return 0, false
	}
	pair := nfcPairOf(i)
	return pair.composite, pair.first == first && pair.second == second
}

// The tables are strings of fixed-size records, sorted by what is searched in
// them. A field is a number in base 64, most significant digit first, whose
// digits are the bytes from '0' on.
const (
	nfcRuneLen  = 3
	nfcCountLen = 2
	nfcClassLen = 2
	nfcIndexLen = 2

	// nfcClasses: first rune, number of runes, class.
	nfcRangeLen = nfcRuneLen + nfcCountLen + nfcClassLen
	// nfcPairs: first, second, composite. nfcComposites holds the numbers of
	// these records in the order of their composites.
	nfcPairLen = 3 * nfcRuneLen
)

// nfcNumber reads one field.
func nfcNumber(field string) rune {
	var n rune
	for i := range len(field) {
		n = n<<6 | rune(field[i]-'0')
	}
	return n
}

// nfcClassOf returns the class of r.
func nfcClassOf(r rune) nfcClass {
	if h := r - hangulBase; h >= 0 && h < hangulCount {
		if h%hangulTrails == 0 {
			return 1 << 10
		}
		return 2 << 10
	}
	after := sort.Search(len(nfcClasses)/nfcRangeLen, func(i int) bool {
		return nfcNumber(nfcClasses[i*nfcRangeLen:][:nfcRuneLen]) > r
	})
	if after == 0 {
		return 0
	}
	record := nfcClasses[(after-1)*nfcRangeLen:][:nfcRangeLen]
	if r-nfcNumber(record[:nfcRuneLen]) >= nfcNumber(record[nfcRuneLen:][:nfcCountLen]) {
		return 0
	}
	return nfcClass(nfcNumber(record[nfcRuneLen+nfcCountLen:]))
}

// nfcPair is one primary composite and its two parts.
type nfcPair struct{ first, second, composite rune }

// nfcPairOf returns the pair with number i in the order of its parts.
func nfcPairOf(i int) nfcPair {
	record := nfcPairs[i*nfcPairLen:][:nfcPairLen]
	return nfcPair{
		first:     nfcNumber(record[:nfcRuneLen]),
		second:    nfcNumber(record[nfcRuneLen:][:nfcRuneLen]),
		composite: nfcNumber(record[2*nfcRuneLen:]),
	}
}

// nfcPairAt returns the pair with number i in the order of its composite.
func nfcPairAt(i int) nfcPair {
	return nfcPairOf(int(nfcNumber(nfcComposites[i*nfcIndexLen:][:nfcIndexLen])))
}
