// Package spelling finds the word that was probably meant.
package spelling

import "strings"

// longest bounds the words compared: a longer one is no typing error.
const longest = 64

// Nearest returns the word with the fewest letters to insert, delete or
// replace, and how many that are; letter case counts for nothing. The first of
// several counts; without words it returns "".
func Nearest(word string, words []string) (nearest string, distance int) {
	for i, w := range words {
		if d := Distance(word, w); i == 0 || d < distance {
			nearest, distance = w, d
		}
	}
	return nearest, distance
}

// Distance returns how many letters there are to insert, delete or replace
// between two words, without regard to case.
func Distance(a, b string) int {
	if len(a) > longest {
		return len(a)
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
