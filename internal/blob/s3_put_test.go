package blob

import "testing"

// TestSizeOfPart holds the sizes of parts against what S3 permits, and R2.
func TestSizeOfPart(t *testing.T) {
	const parts, mib, gib, tib = 10_000, 1 << 20, 1 << 30, 1 << 40
	var sum int64
	for n := range int32(parts) {
		size := sizeOfPart(n + 1)
		if size < 5*mib || size > 5*gib {
			t.Fatalf("part %d has %d bytes", n+1, size)
		}
		if size != sizeOfPart(1) && sum < 32*gib {
			t.Fatalf("part %d has another size than the first one, %d bytes into the object", n+1, sum)
		}
		sum += size
	}
	if sum < 5*tib {
		t.Errorf("the parts hold %d bytes, and objects can have %d", sum, int64(5*tib))
	}
}
