// Alertmanager, the real one, with examples/alertmanager, posting to `dingtalk-host serve`, which posts to a simulated robot
// that shuts itself after one message too many. A table says what was seen.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: driver PROGRAM WORK EXAMPLE")
		os.Exit(2)
	}
	work := os.Args[2]
	p := programs{host: os.Args[1], manager: filepath.Join(work, "alertmanager"), amtool: filepath.Join(work, "amtool"),
		example: os.Args[3], work: work}
	t := &table{}
	t.row("example", "amtool check-config takes it", func() (string, error) {
		output, err := exec.Command(p.amtool, "check-config", filepath.Join(p.example, "alertmanager.yml")).CombinedOutput()
		if err != nil {
			return string(output), err
		}
		return "SUCCESS", contains(string(output), "SUCCESS", "1 templates", "1 receivers")
	})
	// The storms take minutes, in which the others find room.
	var all sync.WaitGroup
	all.Go(func() { storm(t, p) })
	all.Go(func() { queue(t, p) })
	for _, world := range []func(*table, programs){
		messages, reminders, lostAnswer, away, shut, wrongKeyword, wrongSecret,
	} {
		world(t, p)
	}
	all.Wait()
	if !t.summary() {
		os.Exit(1)
	}
}
