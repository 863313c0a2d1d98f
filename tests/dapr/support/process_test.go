package support

import "testing"

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
