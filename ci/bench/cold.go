package main

import (
	"context"
	"time"
)

// A pusher pushes a closure to a site, whose URL gets these parameters.
type pusher func(ctx context.Context, s *site, c closure, params string) (sample, error)

func (l *lab) ourPush(ctx context.Context, s *site, c closure, params string) (sample, error) {
	got, _, err := l.out(ctx, s, c, params)
	return got, err
}

// cold pushes a closure to a place with nothing in it.
func (l *lab) cold(origin origin, where string, delay time.Duration, push pusher, params string) contestant {
	return func(ctx context.Context, _ int) (sample, error) {
		c, err := origin(ctx)
		if err != nil {
			return sample{}, err
		}
		s, err := l.open(ctx, where, delay)
		if err != nil {
			return sample{}, err
		}
		defer s.close()
		got, err := push(ctx, s, c, params)
		if err != nil {
			return sample{}, err
		}
		if got.Stored, err = s.stored(ctx); err != nil {
			return sample{}, err
		}
		got.ServerCPU = s.close()
		return got, nil
	}
}
