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
			all, titles := everything()
			should := map[string]bool{}
			for _, title := range titles {
				should[title] = true
			}
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
			return paced(seen)
		})
	})
}

// What breaks, and the titles of what is to be seen of it.
func everything() (all []alert, titles []string) {
	add := func(name string, number int) {
		for i := range number {
			labels := map[string]string{"alertname": name, "cluster": "eu", "instance": fmt.Sprintf("host-%d:9100", i),
				"dingtalk_mobiles": "13800000000"}
			all = append(all, firing(labels, strings.Repeat("Something is wrong with this host. ", 8)))
		}
		titles = append(titles, fmt.Sprintf("[FIRING:%d] %s eu", number, name))
	}
	for group := range groups {
		add(fmt.Sprintf("Group%d", group), inEach)
	}
	add("Everything", inOne)
	return all, titles
}

// As many as DingTalk takes, each as long as it takes.
func paced(seen []message) (string, error) {
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
}

// The same, with a queue, in which what waits becomes one message; and the host is killed as soon as it has taken it.
func queue(t *table, p programs) {
	queued := setting{instead: soon, robot: []string{"--rate-limit", "20", "--penalty", "10m"}, outbox: true,
		properties: map[string]string{"overflow": "queue", "merge": "true"}}
	t.in(p, "queue", queued, func(w *world) {
		all, titles := everything()
		var seen []message
		t.row("queue", fmt.Sprintf("%d groups taken, the host killed: all seen", len(titles)), func() (string, error) {
			begun := time.Now()
			if err := w.alerts(all...); err != nil {
				return "", err
			}
			err := eventually(patience, "all are taken", func() bool {
				requests, _, err := w.asked()
				return err == nil && requests >= len(titles)
			})
			if err != nil {
				return "", err
			}
			taken := time.Since(begun)
			if err := w.killed(); err != nil {
				return "", err
			}
			text := ""
			err = eventually(stormLimit, "all are seen", func() bool {
				if seen, err = w.messages(); err != nil {
					return false
				}
				text = ""
				for _, m := range seen {
					text += m.Markdown.Text + "\n"
				}
				return strings.Count(text, "**[FIRING:") >= len(titles)
			})
			for _, title := range titles {
				// As the template writes it.
				if count := strings.Count(text, strings.Replace("**"+title, "]", "]**", 1)); count != 1 {
					err = errors.Join(err, fmt.Errorf("%q is seen %d times", title, count))
				}
			}
			return fmt.Sprintf("taken in %.0f s, %d messages in %.0f s", taken.Seconds(), len(seen), time.Since(begun).Seconds()),
				errors.Join(err, equal("they are fewer", len(seen) < len(titles), true))
		})
		t.row("queue", "nothing was refused by anybody", func() (string, error) {
			stats, err := w.stats()
			requests, failed, metrics := w.asked()
			return fmt.Sprintf("%d requests, %d posts, repeated %d, refused %v", requests, stats.Requests, stats.Repeated, stats.Rejected),
				errors.Join(err, metrics, equal("refused", len(stats.Rejected), 0), equal("requests", requests, len(titles)),
					equal("given up", failed, 0))
		})
		t.row("queue", fmt.Sprintf("at most %d posts in any 60 s", aMinute), func() (string, error) { return paced(seen) })
	})
}
