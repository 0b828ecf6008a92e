// Package impatient is for programs in whose tests the network stalls, or is
// out of order for good: they notice within seconds, not minutes.
package impatient

import (
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
)

// Be makes this process's caches impatient.
func Be() {
	blob.DefaultPatience = blob.Patience{
		Retry: retry.Policy{First: 20 * time.Millisecond, Longest: time.Second, Budget: 10 * time.Second},
		Stall: 2 * time.Second,
	}
}
