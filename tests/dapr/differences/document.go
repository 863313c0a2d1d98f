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
	// What differs everywhere, by an example of it.
	usual  map[string]difference
	counts map[string]int
}

// A row of a table that begins with a name.
var named = regexp.MustCompile(`(?m)^\| \*\*([^*]+)\.\*\* `)

func read(path string) (*document, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	document := &document{shown: map[string]bool{}, usual: map[string]difference{}, counts: map[string]int{}}
	for _, match := range named.FindAllSubmatch(text, -1) {
		name := string(match[1])
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
	verdict := "equal"
	lines := []string{}
	expected := map[string]bool{}
	for what := range row.test.reasons {
		expected[what] = true
	}
	if row.err != nil {
		verdict, lines, expected = "FAILED", append(lines, row.err.Error()), nil
	}
	for _, found := range row.differences {
		name, own := row.test.reasons[found.what]
		if !own {
			name = usualRow(found.what)
		}
		delete(expected, found.what)
		_, written := d.shown[name]
		switch {
		case name == "":
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
		lines = append(lines, "    dapr: "+short(found.theirs), "    ours: "+short(found.ours))
	}
	for _, what := range sorted(expected) {
		verdict = "FAILED"
		lines = append(lines, what+": does not differ, though docs/dapr.md says so in the row \""+row.test.reasons[what]+"\"")
	}
	d.counts[verdict]++
	fmt.Printf("%-8s %s\n", verdict, row.test.name)
	for _, line := range lines {
		fmt.Println("             " + line)
	}
}

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
	right := d.counts["FAILED"] == 0
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
	fmt.Printf("%d cases: %d equal, %d but for what is usual, %d differ as docs/dapr.md says, %d not\n",
		d.counts["equal"]+d.counts["usual"]+d.counts["differs"]+d.counts["FAILED"],
		d.counts["equal"], d.counts["usual"], d.counts["differs"], d.counts["FAILED"])
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
