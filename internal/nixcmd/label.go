package nixcmd

import (
	"bytes"
	"io"
)

// Labelled is the same store, whose log names who is worked for at the start of
// each line: several speak at once.
func (s *Store) Labelled(who string) *Store {
	labelled := *s
	labelled.log = &labeller{w: s.log, label: who + "> "}
	return &labelled
}

// A labeller passes on whole lines, each after a label and in one piece.
type labeller struct {
	w          io.Writer
	label      string
	unfinished []byte
}

func (l *labeller) Write(p []byte) (int, error) {
	l.unfinished = append(l.unfinished, p...)
	for {
		line, rest, ok := bytes.Cut(l.unfinished, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if _, err := l.w.Write(append(append([]byte(l.label), line...), '\n')); err != nil {
			return 0, err
		}
		l.unfinished = rest
	}
}
