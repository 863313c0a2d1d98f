package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Rows that are printed as they come.
type rows struct {
	world  string
	right  int
	failed int
}

// What was seen of a case, or why it is not as expected.
func (t *rows) row(name string, look func() (string, error)) {
	begun := time.Now()
	seen, err := look()
	verdict := "ok"
	if err != nil {
		verdict, seen = "FAILED", strings.TrimSpace(seen+"\n"+err.Error())
		t.failed++
	} else {
		t.right++
	}
	seen = strings.ReplaceAll(seen, "\n", "\n"+strings.Repeat(" ", 12))
	fmt.Printf("%-8s%-16s%-46s%s [%.1f s]\n", verdict, t.world, name, seen, time.Since(begun).Seconds())
}

// The end of the table, and whether all of it is as expected.
func (t *rows) summary() bool {
	fmt.Printf("---\n%d as expected, %d not\n", t.right, t.failed)
	return t.failed == 0 && t.right > 0
}

// Tries again until it is so: other processes take the time that they take.
func eventually(limit time.Duration, what string, is func() bool) error {
	for begun := time.Now(); time.Since(begun) < limit; time.Sleep(50 * time.Millisecond) {
		if is() {
			return nil
		}
	}
	return fmt.Errorf("not within %v: %s", limit, what)
}

func contains(text string, parts ...string) error {
	var missing []error
	for _, part := range parts {
		if !strings.Contains(text, part) {
			missing = append(missing, fmt.Errorf("%q is not in it: %s", part, text))
		}
	}
	return errors.Join(missing...)
}

func equal[T comparable](what string, is, should T) error {
	if is != should {
		return fmt.Errorf("%s: %v, not %v", what, is, should)
	}
	return nil
}
