package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	groups     = 60
	inEach     = 16
	inOne      = 1_000
	aMinute    = 20
	mostBytes  = 20_000
	stormLimit = 9 * time.Minute
)

// Everything breaks at once. The robot is DingTalk's: 20 messages a minute, and ten minutes shut after one more.
func storm(t *table, p programs) {
	t.in(p, "storm", setting{instead: soon, robot: []string{"--rate-limit", "20", "--penalty", "10m"}}, func(w *world) {
		var seen []message
		t.row("storm", fmt.Sprintf("%d groups of %d, and one of %d: all seen", groups, inEach, inOne), func() (string, error) {
			var all []alert
			should := map[string]bool{fmt.Sprintf("[FIRING:%d] Everything eu", inOne): true}
			add := func(name string, number int) {
				for i := range number {
					labels := map[string]string{"alertname": name, "cluster": "eu", "instance": fmt.Sprintf("host-%d:9100", i),
						"dingtalk_mobiles": "13800000000"}
					all = append(all, firing(labels, strings.Repeat("Something is wrong with this host. ", 8)))
				}
			}
			for group := range groups {
				name := fmt.Sprintf("Group%d", group)
				add(name, inEach)
				should[fmt.Sprintf("[FIRING:%d] %s eu", inEach, name)] = true
			}
			add("Everything", inOne)
			begun := time.Now()
			if err := w.alerts(all...); err != nil {
				return "", err
			}
			var err error
			if seen, err = w.seen(len(should), stormLimit); err != nil {
				return fmt.Sprintf("%d of %d", len(seen), len(should)), err
			}
			took := time.Since(begun)
			for _, m := range seen {
				if !should[m.Markdown.Title] {
					err = errors.Join(err, fmt.Errorf("%q is seen twice, or is none of them", m.Markdown.Title))
				}
				delete(should, m.Markdown.Title)
			}
			return fmt.Sprintf("%d messages in %.0f s", len(seen), took.Seconds()), err
		})
		t.row("storm", "the robot refused nothing, nothing was repeated", func() (string, error) {
			stats, err := w.stats()
			requests, failed, metrics := w.asked()
			return fmt.Sprintf("%d requests, %d posts, refused %v", requests, stats.Requests, stats.Rejected), errors.Join(err,
				metrics, equal("refused", len(stats.Rejected), 0), equal("posts", stats.Requests, groups+1),
				equal("repeated", stats.Repeated, 0), equal("given up", failed, 0))
		})
		t.row("storm", fmt.Sprintf("at most %d posts in any 60 s", aMinute), func() (string, error) {
			most, bytes := 0, 0
			for first := range seen {
				number := 0
				for _, m := range seen[first:] {
					if m.ReceivedAt < seen[first].ReceivedAt+60_000 {
						number++
					}
				}
				most = max(most, number)
				bytes = max(bytes, len(seen[first].Body))
			}
			return fmt.Sprintf("%d; the longest body has %d bytes", most, bytes), errors.Join(
				equal("so many posts are none too many", most > 0 && most <= aMinute, true),
				equal("so many bytes are none too many", bytes > 0 && bytes <= mostBytes, true))
		})
	})
}
