package support

import (
	"testing"
	"time"
)

func TestTheTimeThatAProcessUsesIsCounted(t *testing.T) {
	busy, err := Start("busy", nil, "sh", "-c", "while :; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Kill()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		used, err := busy.Used()
		if err != nil {
			t.Fatal(err)
		}
		if elapsed := time.Since(begun); used > elapsed+time.Second {
			t.Fatalf("one thread has used %v within %v", used, elapsed)
		} else if used >= 100*time.Millisecond {
			return
		} else if elapsed > time.Minute {
			t.Fatalf("only %v of a minute is counted", used)
		}
	}
}

// Three programs with four ports each are started one after the other: of 20,000 ports, one in 400 of such worlds had one
// port twice, and a program that ended.
func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 500 {
		ports, err := Ports(4)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range ports {
			if seen[port] {
				t.Fatalf("port %s was given twice", port)
			}
			seen[port] = true
		}
	}
}
