package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Rows that are printed as they come: worlds run at the same time.
type table struct {
	mutex  sync.Mutex
	right  int
	failed int
}

// What was seen of a case, or why it is not as expected.
func (t *table) row(world, name string, look func() (string, error)) {
	begun := time.Now()
	seen, err := look()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	verdict := "ok"
	if err != nil {
		verdict, seen = "FAILED", strings.TrimSpace(seen+"\n"+err.Error())
		t.failed++
	} else {
		t.right++
	}
	seen = strings.ReplaceAll(seen, "\n", "\n"+strings.Repeat(" ", 8))
	fmt.Printf("%-8s%-10s%-52s%s [%.1f s]\n", verdict, world, name, seen, time.Since(begun).Seconds())
}

// The end of the table, and whether all of it is as expected.
func (t *table) summary() bool {
	fmt.Printf("---\n%d as expected, %d not\n", t.right, t.failed)
	return t.failed == 0 && t.right > 0
}

// Tries again until it is so: other processes take the time that they take.
func eventually(limit time.Duration, what string, is func() bool) error {
	for begun := time.Now(); time.Since(begun) < limit; time.Sleep(100 * time.Millisecond) {
		if is() {
			return nil
		}
	}
	return fmt.Errorf("not within %v: %s", limit, what)
}

func equal[T comparable](what string, is, should T) error {
	if is != should {
		return fmt.Errorf("%s: %v, not %v", what, is, should)
	}
	return nil
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
