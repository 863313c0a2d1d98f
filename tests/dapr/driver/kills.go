package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Messages that are on their way at once, in each direction.
const atOnce = 4

// Sends as many messages each way while daprd, the component's process (with an inbox) and the application are killed at
// random: whatever was acknowledged has to arrive.
func kills(programs paths, messages int, seed uint64) bool {
	if messages == 0 {
		messages = 1000
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("seed %d\n", seed)
	table := &rows{world: "kills"}
	if err := killing(table, programs, messages, seed); err != nil {
		table.row("runs to its end", func() (string, error) { return "", err })
	}
	return table.summary()
}

func killing(table *rows, programs paths, messages int, seed uint64) error {
	inbox := []string{"--inbox", filepath.Join(programs.folder, "kills", "inbox")}
	s, err := staged(programs, "kills", (*stage).specification, inbox...)
	if err != nil {
		return err
	}
	defer s.stop()
	var mutex sync.Mutex
	taken := map[string]int{}
	// An application that is killed while it works has not taken a message.
	s.app.answers(func(event delivery) (int, string) {
		time.Sleep(5 * time.Millisecond)
		if event.gone() {
			return 500, ""
		}
		mutex.Lock()
		defer mutex.Unlock()
		taken[event.text()]++
		return 200, ""
	})
	var killed struct{ daprd, component, app int }
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		stopped <- s.killAtRandom(rand.New(rand.NewPCG(seed, 0)), inbox, stop, &killed.daprd, &killed.component, &killed.app)
	}()

	created, said := map[string]bool{}, map[string]bool{}
	var attempts, refused atomic.Int64
	// Each is tried until it was acknowledged, as its sender would: with one msgUuid, and with one msgId.
	deadline := time.Now().Add(20 * time.Minute)
	again := func(try func() bool) bool {
		for time.Now().Before(deadline) {
			attempts.Add(1)
			if try() {
				return true
			}
			refused.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
		return false
	}
	begun := time.Now()
	var senders sync.WaitGroup
	next := func(prefix string, one func(string) bool, acknowledged map[string]bool) {
		var counter atomic.Int64
		for range atOnce {
			senders.Go(func() {
				for number := counter.Add(1); number <= int64(messages); number = counter.Add(1) {
					name := fmt.Sprintf("%s %d", prefix, number)
					if again(func() bool { return one(name) }) {
						mutex.Lock()
						acknowledged[name] = true
						mutex.Unlock()
					}
				}
			})
		}
	}
	next("created", func(name string) bool {
		answer, err := s.invoke("mydingtalk", "create", text(name), map[string]string{"msgUuid": name})
		return err == nil && answer.status == 200
	}, created)
	next("said", func(name string) bool {
		outcome, err := s.say(map[string]any{"text": name, "msgId": name})
		return err == nil && outcome.last() == 200
	}, said)
	senders.Wait()
	close(stop)
	if err := <-stopped; err != nil {
		return err
	}
	took := time.Since(begun)

	table.row("killed", func() (string, error) {
		seen := fmt.Sprintf("daprd %d, the component %d, the application %d times in %.0f s; %d attempts, %d in vain",
			killed.daprd, killed.component, killed.app, took.Seconds(), attempts.Load(), refused.Load())
		if killed.daprd == 0 || killed.component == 0 || killed.app == 0 {
			return seen, fmt.Errorf("not all of them")
		}
		return seen, nil
	})
	table.row("create: acknowledged, and in the group", func() (string, error) {
		shown, err := s.shown()
		if err != nil {
			return "", err
		}
		there, twice := 0, 0
		for name := range created {
			if shown[name] > 0 {
				there++
			}
			if shown[name] > 1 {
				twice++
			}
		}
		return fmt.Sprintf("%d of %d answered 200, %d of them shown, %d twice", len(created), messages, there, twice),
			errorsOf(equal("answered 200", len(created), messages), equal("shown", there, len(created)), equal("twice", twice, 0))
	})
	table.row("said: acknowledged, and with the application", func() (string, error) {
		there, lost := 0, ""
		err := eventually(2*time.Minute, "everything acknowledged is delivered", func() bool {
			mutex.Lock()
			defer mutex.Unlock()
			there, lost = 0, ""
			for name := range said {
				if taken[name] > 0 {
					there++
				} else {
					lost = name
				}
			}
			return there == len(said)
		})
		mutex.Lock()
		defer mutex.Unlock()
		repeated := 0
		for name := range said {
			if taken[name] > 1 {
				repeated++
			}
		}
		seen := fmt.Sprintf("%d of %d acknowledged, %d of them delivered, %d more than once", len(said), messages, there, repeated)
		if err != nil {
			err = fmt.Errorf("%w, such as %q; the component says:\n%s", err, lost, tail(s.component.Log()))
		}
		return seen, errorsOf(err, equal("acknowledged", len(said), messages))
	})
	return nil
}

// Kills one after the other until there is nothing more to disturb, and starts it again as an operator would: daprd after
// the component too.
func (s *stage) killAtRandom(random *rand.Rand, inbox []string, stop chan struct{}, daprd, component, app *int) error {
	for {
		// Some of what is sent gets through in between.
		pause := time.Duration(300+random.IntN(1000)) * time.Millisecond
		select {
		case <-stop:
			return nil
		case <-time.After(pause):
		}
		away := time.Duration(random.IntN(300)) * time.Millisecond
		switch random.IntN(3) {
		case 0:
			*daprd++
			s.daprd.Kill()
			time.Sleep(away)
			if err := s.startDaprd(); err != nil {
				return err
			}
		case 1:
			*component++
			s.component.Kill()
			time.Sleep(away)
			if err := s.startComponent(inbox...); err != nil {
				return err
			}
			s.daprd.Kill()
			if err := s.startDaprd(); err != nil {
				return err
			}
		case 2:
			*app++
			s.app.close()
			time.Sleep(away)
			if err := s.app.open(); err != nil {
				return err
			}
		}
	}
}
