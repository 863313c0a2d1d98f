// The real daprd with `dingtalk-host pluggable` beside it: what is sent, what is received, and what becomes of both when one
// of them, or the application, is not there.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Where the programs are, and where files go: all but the first in the folder that ./build fills.
type paths struct {
	host, daprd, builtin, conformance, collector, folder string
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: driver run|kills|bench|traces DINGTALK-HOST FOLDER [NUMBER [SEED]]")
		os.Exit(2)
	}
	folder := os.Args[3]
	built := func(name string) string { return filepath.Join(folder, name) }
	programs := paths{os.Args[2], built("daprd"), built("daprd-builtin"), built("conformance"), built("collector"), built("stages")}
	number, seed := argument(4), argument(5)
	right := false
	switch os.Args[1] {
	case "run":
		right = run(programs)
	case "kills":
		right = kills(programs, int(number), seed)
	case "bench":
		right = bench(programs, int(number))
	case "traces":
		right = traces(programs)
	default:
		fmt.Fprintf(os.Stderr, "%q is none of run, kills, bench, traces\n", os.Args[1])
		os.Exit(2)
	}
	if !right {
		os.Exit(1)
	}
}

// A number, or 0 where there is none.
func argument(position int) uint64 {
	if len(os.Args) <= position {
		return 0
	}
	number, err := strconv.ParseUint(os.Args[position], 10, 63)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%q is no number\n", os.Args[position])
		os.Exit(2)
	}
	return number
}
