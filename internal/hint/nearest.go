package hint

import "strings"

// Nearest returns the candidate that word was most likely meant to be, or "" if
// none is near: at most half of its letters differ.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/2+1
	for _, candidate := range candidates {
		if d := distance(fold(word), fold(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// fold makes words equal that differ only in case or in how their parts are
// joined: nix.conf has trusted-public-keys where a pipeline has
// trusted_public_keys.
func fold(word string) string {
	return strings.ReplaceAll(strings.ToLower(word), "-", "_")
}

// distance counts the bytes that have to be inserted, deleted or replaced to
// make b of a (Levenshtein's distance).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
