package pointer

import "time"

// Expired says whether nobody should start to follow g any more at that time.
func (g Generation) Expired(now time.Time) bool {
	return g.Expires != 0 && now.Unix() >= g.Expires
}

// expires is when a generation expires that is written now.
func (p *Pointer) expires() int64 {
	if p.config.ExpiresAfter == 0 {
		return 0
	}
	return p.config.Now().Add(p.config.ExpiresAfter).Unix()
}

// renewable says whether g expires too soon, or should not expire any more.
func (p *Pointer) renewable(g Generation) bool {
	if p.config.ExpiresAfter == 0 {
		return g.Expires != 0
	}
	return time.Unix(g.Expires, 0).Sub(p.config.Now()) < p.config.ExpiresAfter/2
}
