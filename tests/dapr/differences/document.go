package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// docs/dapr.md, and what has been held against it.
type document struct {
	// The names of its rows, and whether some case showed the difference.
	shown map[string]bool
	// The heading above each.
	section map[string]string
	// What differs everywhere, by an example of it.
	usual map[string]difference
	// Cases by their verdict: on the host, and on daprd with the component.
	counts, through map[string]int
}

// A heading, or a row of a table that begins with a name.
var named = regexp.MustCompile(`(?m)^### (.*)$|^\| \*\*([^*]+)\.\*\* `)

// Sections whose rows are of no matter where daprd is in front: it does there what it does in front of its own binding.
var daprs = []string{"The HTTP API", "Component files"}

// Rows of these sections that hold there too.
var still = []string{"Response metadata"}

func (d *document) holdsThroughSocket(name string) bool {
	return !slices.Contains(daprs, d.section[name]) || slices.Contains(still, name)
}

func read(path string) (*document, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	document := &document{shown: map[string]bool{}, section: map[string]string{}, usual: map[string]difference{}, counts: map[string]int{}, through: map[string]int{}}
	section := ""
	for _, match := range named.FindAllSubmatch(text, -1) {
		name := string(match[2])
		if name == "" {
			section = string(match[1])
			continue
		}
		document.section[name] = section
		if _, twice := document.shown[name]; twice {
			return nil, fmt.Errorf("%s has two rows %q", path, name)
		}
		document.shown[name] = false
	}
	if len(document.shown) == 0 {
		return nil, fmt.Errorf("%s has no row that begins with a name in bold", path)
	}
	return document, nil
}

// What differs nearly everywhere, and its row. What a case says itself comes first.
var everywhere = []struct {
	what *regexp.Regexp
	row  string
}{
	{regexp.MustCompile(`^header [Mm]etadata\.|^metadata `), "Response metadata"},
	{regexp.MustCompile(`^details$`), "Error details"},
	{regexp.MustCompile(`^(delivery \d+ )?header (Traceparent|grpc-trace-bin)$`), "Trace headers"},
	{regexp.MustCompile(`^(post|delivery) \d+ header (User-Agent|Accept-Encoding)$`), "Headers of a client"},
	{regexp.MustCompile(`^delivery \d+ header Operation$`), "Metadata of `get`"},
	{regexp.MustCompile(`^message, wrapped$`), "Wrapping"},
	{regexp.MustCompile(`, rewritten$`), "Data"},
	{regexp.MustCompile(`, order$`), "Order of parameters"},
	{regexp.MustCompile(`^member runtimeVersion$`), "Version"},
	{regexp.MustCompile(`^(member|secretstores) |^line break$`), "Members of metadata"},
}

func usualRow(what string) string {
	for _, rule := range everywhere {
		if rule.what.MatchString(what) {
			return rule.row
		}
	}
	return ""
}

// Prints one row of the table, and notes what it shows.
func (d *document) judge(row row) {
	if row.err != nil {
		d.counts["FAILED"]++
		fmt.Printf("%-8s %-8s %s\n             %v\n", "FAILED", "FAILED", row.test.name, row.err)
		return
	}
	verdict, lines := d.assess(row.differences, row.test.reasons, "ours")
	reasons := map[string]string{}
	for what, name := range row.test.reasons {
		if d.holdsThroughSocket(name) {
			reasons[what] = name
		}
	}
	for what, name := range row.test.socket {
		if reasons[what] = name; name == "" {
			delete(reasons, what)
		}
	}
	through, more := d.assess(row.socket, reasons, "socket")
	d.counts[verdict]++
	d.through[through]++
	fmt.Printf("%-8s %-8s %s\n", verdict, through, row.test.name)
	for _, line := range lines {
		fmt.Println("                 " + line)
	}
	// What differs there as it does here is not said twice.
	if through == "FAILED" || len(row.test.socket) > 0 {
		for _, line := range more {
			fmt.Println("          socket " + line)
		}
	}
}

// The verdict on what differs in one case, given the rows that are to say why.
func (d *document) assess(differences []difference, reasons map[string]string, who string) (verdict string, lines []string) {
	verdict = "equal"
	expected := map[string]bool{}
	for what := range reasons {
		expected[what] = true
	}
	for _, found := range differences {
		name, own := reasons[found.what]
		if !own {
			name = usualRow(found.what)
		}
		delete(expected, found.what)
		_, written := d.shown[name]
		switch {
		case name == "" || who == "socket" && !own && !d.holdsThroughSocket(name):
			verdict = "FAILED"
			lines = append(lines, found.what+": no row of docs/dapr.md says so")
		case !written:
			verdict = "FAILED"
			lines = append(lines, found.what+": docs/dapr.md has no row \""+name+"\"")
		case own:
			if verdict != "FAILED" {
				verdict = "differs"
			}
			lines = append(lines, found.what+": "+name)
		default:
			d.shown[name] = true
			if _, known := d.usual[name]; !known {
				d.usual[name] = found
			}
			if verdict == "equal" {
				verdict = "usual"
			}
			continue
		}
		if written {
			d.shown[name] = true
		}
		lines = append(lines, "    dapr: "+short(found.theirs), "    "+who+": "+short(found.ours))
	}
	for _, what := range sorted(expected) {
		verdict = "FAILED"
		lines = append(lines, what+": does not differ, though docs/dapr.md says so in the row \""+reasons[what]+"\"")
	}
	return verdict, lines
}

// Whether a case shows something else than it should.
func (d *document) failed() bool { return d.counts["FAILED"] > 0 || d.through["FAILED"] > 0 }

// The end of the table, and whether the document is right.
func (d *document) summary() bool {
	fmt.Println("--- usual: differs wherever there is such a thing, and is not repeated above")
	names := map[string]bool{}
	for name := range d.usual {
		names[name] = true
	}
	for _, name := range sorted(names) {
		found := d.usual[name]
		fmt.Printf("         %s: %s\n             dapr: %s\n             ours: %s\n", found.what, name, short(found.theirs), short(found.ours))
	}
	fmt.Println("---")
	right := !d.failed()
	unseen := map[string]bool{}
	for name, shown := range d.shown {
		if !shown {
			unseen[name] = true
		}
	}
	for _, name := range sorted(unseen) {
		right = false
		fmt.Printf("FAILED   no case shows what docs/dapr.md says in the row %q\n", name)
	}
	for _, count := range []struct {
		what string
		of   map[string]int
	}{{"the host", d.counts}, {"daprd with the component", d.through}} {
		fmt.Printf("%s: %d cases, %d equal, %d but for what is usual, %d differ as docs/dapr.md says, %d not\n", count.what,
			count.of["equal"]+count.of["usual"]+count.of["differs"]+count.of["FAILED"],
			count.of["equal"], count.of["usual"], count.of["differs"], count.of["FAILED"])
	}
	return right
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
