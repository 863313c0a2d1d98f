package main

import (
	"fmt"
	"os"
	"strings"
)

// Another daprd, with component files and an application of its own, at the same sockets and the same group.
func (s *stage) beside(name string) (*stage, error) {
	other, err := newStage(s.paths, name)
	if err != nil {
		return nil, err
	}
	os.RemoveAll(other.sockets)
	other.sockets, other.group, other.callbacks = s.sockets, s.group, s.callbacks
	return other, nil
}

// Two daprds that look into one folder: an instance has the name of its component file, whichever of them names it.
func two(table *rows, programs paths) error {
	one, err := staged(programs, "one", func(s *stage) error {
		if err := s.write("first", kind, secret); err != nil {
			return err
		}
		return s.write("shared", kind, secret)
	})
	if err != nil {
		return err
	}
	defer one.stop()
	other, err := one.beside("other")
	if err != nil {
		return err
	}
	defer other.stop()
	for _, step := range []func() error{
		func() error { return other.write("second", kind, secret) },
		func() error { return other.write("shared", kind, secret) },
		func() error { return other.startDaprd() },
		// What daprd does after it is ready.
		func() error { return reading(one, "first", 1) },
		func() error { return reading(one, "second", 1) },
		func() error { return reading(one, "shared", 2) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	table.row("both send", func() (string, error) {
		seen, err := one.create("first", "of the first")
		if err != nil {
			return seen, err
		}
		if seen, err := other.create("second", "of the second"); err != nil {
			return seen, err
		}
		if seen, err := one.create("shared", "shared, of the first"); err != nil {
			return seen, err
		}
		return other.create("shared", "shared, of the second")
	})
	table.row("neither has what is the other's", func() (string, error) {
		answer, err := one.invoke("second", "create", text("x"), nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "couldn't find output binding second"))
	})
	// Says something to a component, which this application hears and that one does not.
	hears := func(name, component string, who, not *stage) {
		table.row(name, func() (string, error) {
			if err := one.speakTo(component); err != nil {
				return "", err
			}
			outcome, err := one.say(map[string]any{"text": name})
			came, elsewhere := len(who.app.received(name)), len(not.app.received(name))
			return fmt.Sprintf("%v, delivered %d, to the other %d", outcome.statuses(), came, elsewhere),
				errorsOf(err, equal("status", outcome.last(), 200), equal("deliveries", came, 1), equal("deliveries to the other", elsewhere, 0))
		})
	}
	hears("the first reads", "first", one, other)
	hears("the second reads", "second", other, one)
	hears("of one name, the one that came last reads", "shared", other, one)
	table.row("get, each from its own application", func() (string, error) {
		one.app.answers(func(delivery) (int, string) { return 200, `"one"` })
		other.app.answers(func(delivery) (int, string) { return 200, `"other"` })
		defer one.app.answers(accepting)
		defer other.app.answers(accepting)
		first, err := one.invoke("first", "get", text("got"), nil)
		if err != nil {
			return "", err
		}
		second, err := other.invoke("second", "get", text("got"), nil)
		return first.String() + ", " + second.String(), errorsOf(err, equal("first", first.body, `"one"`), equal("second", second.body, `"other"`))
	})
	other.daprd.Stop()
	hears("when that one has ended, the other reads again", "shared", one, other)
	table.row("and sends", func() (string, error) { return one.create("shared", "shared, alone") })
	hears("what was the first's is untouched", "first", one, other)
	if err := other.startDaprd(); err != nil {
		return err
	}
	if err := reading(one, "shared", 3); err != nil {
		return err
	}
	hears("it comes back, and reads", "second", other, one)
	hears("of one name, it is the last again", "shared", other, one)
	return nil
}

// Waits until so many streams of this name have been opened.
func reading(s *stage, name string, streams int) error {
	return eventually(patience, "daprd reads from "+name, func() bool {
		count := 0
		for _, line := range strings.Split(s.component.Log(), "\n") {
			if strings.Contains(line, "daprd reads") && !strings.Contains(line, "no more") && strings.Contains(line, `"`+name+`"`) {
				count++
			}
		}
		return count >= streams
	})
}
