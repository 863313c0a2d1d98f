package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const patience = time.Minute

var (
	// A group's first notification comes at once.
	soon = map[string]string{"group_wait: 30s": "group_wait: 1s"}
	// Also the next ones: 10 s is the least that Alertmanager gives a notification.
	often = with(soon, "group_interval: 5m", "group_interval: 10s")
	// Without the header, as a program of Dapr's is answered: always with 500.
	daprs = with(soon, "dingtalk-error-status:", "x-nothing:")
)

func with(known map[string]string, old, new string) map[string]string {
	all := map[string]string{old: new}
	for old, new := range known {
		all[old] = new
	}
	return all
}

// Starts a world, or says in the table that it does not start.
func (t *table) in(p programs, name string, s setting, look func(*world)) {
	w, err := p.world(strings.ReplaceAll(name, " ", "-"), s)
	if err != nil {
		t.row(name, "starts", func() (string, error) { return "", err })
		return
	}
	defer w.end()
	look(w)
}

func messages(t *table, p programs) {
	t.in(p, "messages", setting{instead: often}, func(w *world) {
		disk := firing(map[string]string{"alertname": "DiskFull", "cluster": "eu", "dingtalk_mobiles": "13800000000"},
			"/var is at 97 %")
		disk.GeneratorURL = "http://prometheus.example.com/graph?g0.expr=disk"
		t.row("messages", "one that fires", func() (string, error) {
			if err := w.alerts(disk); err != nil {
				return "", err
			}
			seen, err := w.seen(1, patience)
			if err != nil {
				return "", err
			}
			m := seen[0]
			return m.Shown, errors.Join(
				equal("msgtype", m.Msgtype, "markdown"), equal("title", m.Markdown.Title, "[FIRING:1] DiskFull eu"),
				contains(m.Markdown.Text, "/var is at 97 %", "[graph](http://prometheus.example.com/graph?g0.expr=disk)",
					"@13800000000"),
				equal("atMobiles", strings.Join(m.At.AtMobiles, " "), "13800000000"), equal("signed", m.Signed, true),
				contains(m.MsgUuid, "@dingtalk/DiskFull,eu/firing=1,"))
		})
		t.row("messages", "the same resolved", func() (string, error) {
			if err := w.alerts(disk.resolved()); err != nil {
				return "", err
			}
			seen, err := w.seen(2, patience)
			if err != nil {
				return "", err
			}
			m := seen[1]
			return m.Markdown.Title + ", mentions nobody", errors.Join(
				equal("title", m.Markdown.Title, "[RESOLVED:1] DiskFull eu"),
				contains(m.Markdown.Text, "Resolved: 1", "/var is at 97 %"), equal("mentions", len(m.At.AtMobiles), 0))
		})
		t.row("messages", "the same fires again: a new message", func() (string, error) {
			again := firing(disk.Labels, "/var is at 98 %")
			if err := w.alerts(again); err != nil {
				return "", err
			}
			seen, err := w.seen(3, patience)
			if err != nil {
				return "", err
			}
			return seen[2].Markdown.Title, errors.Join(
				equal("title", seen[2].Markdown.Title, "[FIRING:1] DiskFull eu"), contains(seen[2].Markdown.Text, "98 %"))
		})
		t.row("messages", "labels like YAML and templates: as they are", func() (string, error) {
			summary := "key: {{ .Nope | fail }} - [x]: \"y\" # 'z' | > %"
			odd := firing(map[string]string{"alertname": "a: [b", "cluster": "{{ c }}: 1", "dingtalk_mobiles": "no number: 1"}, summary)
			if err := w.alerts(odd); err != nil {
				return "", err
			}
			seen, err := w.seen(4, patience)
			if err != nil {
				return "", err
			}
			m := seen[3]
			return m.Markdown.Title, errors.Join(
				equal("title", m.Markdown.Title, "[FIRING:1] a: [b {{ c }}: 1"), contains(m.Markdown.Text, summary))
		})
		t.row("messages", "none was refused", func() (string, error) {
			stats, err := w.stats()
			requests, failed, metrics := w.asked()
			return fmt.Sprintf("%d requests, %d posts", requests, stats.Requests), errors.Join(err, metrics,
				equal("requests", requests, 4), equal("given up", failed, 0), equal("posts", stats.Requests, 4),
				equal("accepted", stats.Accepted, 4))
		})
	})
}

func reminders(t *table, p programs) {
	repeated := with(with(often, "repeat_interval: 4h", "repeat_interval: 5s"), "3600000000000 }}", "1000000000 }}")
	t.in(p, "reminders", setting{instead: repeated}, func(w *world) {
		t.row("reminders", "a repetition is a new message", func() (string, error) {
			if err := w.alerts(firing(map[string]string{"alertname": "DiskFull", "cluster": "eu"}, "full")); err != nil {
				return "", err
			}
			seen, err := w.seen(3, patience)
			if err != nil {
				return "", err
			}
			ids := map[string]bool{}
			for _, m := range seen {
				ids[m.MsgUuid] = true
			}
			return fmt.Sprintf("%d messages, %d msgUuids: …%s, …%s", len(seen), len(ids), last(seen[1].MsgUuid, 10), last(seen[2].MsgUuid, 10)),
				equal("msgUuids", len(ids), len(seen))
		})
	})
}

func lostAnswer(t *table, p programs) {
	t.in(p, "answer", setting{instead: soon, robot: []string{"--fault", "reset"}}, func(w *world) {
		t.row("answer", "posted, the answer lost: the host posts again, seen once", func() (string, error) {
			if err := w.alerts(firing(map[string]string{"alertname": "DiskFull", "cluster": "eu"}, "full")); err != nil {
				return "", err
			}
			err := eventually(patience, "the robot has been asked twice", func() bool {
				stats, err := w.stats()
				return err == nil && stats.Requests >= 2
			})
			if err != nil {
				return "", err
			}
			seen, err := w.seen(1, patience)
			stats, counted := w.stats()
			requests, failed, metrics := w.asked()
			return fmt.Sprintf("%d requests, %d posts, %d message", requests, stats.Requests, len(seen)), errors.Join(err, counted,
				metrics, equal("requests", requests, 1), equal("given up", failed, 0), equal("posts", stats.Requests, 2),
				equal("repeated", stats.Repeated, 1), equal("messages", len(seen), 1))
		})
	})
}

func away(t *table, p programs) {
	t.in(p, "away", setting{instead: soon, away: true}, func(w *world) {
		t.row("away", "DingTalk away, then back: seen once", func() (string, error) {
			if err := w.alerts(firing(map[string]string{"alertname": "DiskFull", "cluster": "eu"}, "full")); err != nil {
				return "", err
			}
			err := eventually(patience, "four attempts", func() bool {
				requests, _, err := w.asked()
				return err == nil && requests >= 4
			})
			if err != nil {
				return "", err
			}
			failed := strings.Count(w.manager.log.String(), "unexpected status code 502")
			back := time.Now()
			if err := w.returns(); err != nil {
				return "", err
			}
			if _, err := w.seen(1, 2*patience); err != nil {
				return "", err
			}
			waited := time.Since(back)
			requests, given, err := w.asked()
			return fmt.Sprintf("%d requests; %.0f s after it was back", requests, waited.Seconds()), errors.Join(err,
				equal("given up", given, 0), equal("status 502 is logged", failed > 0, true))
		})
	})
}

// Long enough for what Alertmanager tries again to be tried many times.
const watched = 30 * time.Second

// Makes so many groups fire, lets Alertmanager try for a while, and says what that came to.
func (w *world) tries(groups int) (requests, failed int, robot stats, err error) {
	var alerts []alert
	for group := range groups {
		alerts = append(alerts, firing(map[string]string{"alertname": fmt.Sprintf("Disk%d", group), "cluster": "eu"}, "full"))
	}
	if err = w.alerts(alerts...); err != nil {
		return
	}
	err = eventually(patience, "each is tried", func() bool {
		requests, _, err := w.asked()
		return err == nil && requests >= groups
	})
	if err != nil {
		return
	}
	time.Sleep(watched)
	requests, failed, err = w.asked()
	if err == nil {
		robot, err = w.stats()
	}
	return
}

func tried(requests, posts int) string {
	return fmt.Sprintf("%d requests, %d posts in %.0f s", requests, posts, watched.Seconds())
}

func wrongKeyword(t *table, p programs) {
	robot := []string{"--keyword", "告警"}
	t.in(p, "keyword", setting{instead: soon, robot: robot}, func(w *world) {
		t.row("keyword", "one that the binding does not know: one post", func() (string, error) {
			requests, failed, robot, err := w.tries(1)
			return tried(requests, robot.Requests), errors.Join(err, equal("requests", requests, 1),
				equal("given up", failed, 1), equal("posts", robot.Requests, 1), equal("310000", robot.Rejected["310000"], 1),
				contains(w.manager.log.String(), "unexpected status code 400"))
		})
	})
	t.in(p, "keyword 500", setting{instead: daprs, robot: robot}, func(w *world) {
		t.row("keyword", "the same with Dapr's statuses, for contrast", func() (string, error) {
			requests, failed, robot, err := w.tries(1)
			return tried(requests, robot.Requests), errors.Join(err, equal("more than 4 requests", requests > 4, true),
				equal("given up", failed, 0), equal("posts", robot.Requests, requests))
		})
	})
}

func wrongSecret(t *table, p programs) {
	wrong := "SECwrong"
	t.in(p, "secret", setting{instead: soon, secret: wrong}, func(w *world) {
		t.row("secret", "a wrong one, then 10 groups: one post", func() (string, error) {
			// The first one alone: those that are under way together are all posted.
			if err := w.alerts(firing(map[string]string{"alertname": "First", "cluster": "eu"}, "full")); err != nil {
				return "", err
			}
			if err := w.gaveUp(1, patience); err != nil {
				return "", err
			}
			requests, failed, robot, err := w.tries(10)
			return tried(requests, robot.Requests), errors.Join(err, equal("requests", requests, 11),
				equal("given up", failed, 11), equal("posts", robot.Requests, 1),
				contains(w.manager.log.String(), "unexpected status code 401"))
		})
		t.row("secret", "the next one in an hour", func() (string, error) { return w.withheld(4, 3_600) })
	})
	t.in(p, "secret 500", setting{instead: daprs, secret: wrong}, func(w *world) {
		t.row("secret", "one group with Dapr's statuses, for contrast", func() (string, error) {
			requests, failed, robot, err := w.tries(1)
			return tried(requests, robot.Requests), errors.Join(err, equal("more than 4 requests", requests > 4, true),
				equal("given up", failed, 0), equal("posts", robot.Requests, 1))
		})
	})
}

// Somebody else has sent one message too many.
func shut(t *table, p programs) {
	t.in(p, "shut", setting{instead: soon, robot: []string{"--fault", "rejected=130101:send too fast"}}, func(w *world) {
		t.row("shut", "by somebody else's messages: one post", func() (string, error) {
			requests, failed, robot, err := w.tries(1)
			return tried(requests, robot.Requests), errors.Join(err, equal("more than 4 requests", requests > 4, true),
				equal("given up", failed, 0), equal("posts", robot.Requests, 1))
		})
		t.row("shut", "the next one in ten minutes", func() (string, error) { return w.withheld(5, 600) })
	})
}
