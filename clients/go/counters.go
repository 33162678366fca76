package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sumv1 "sumd/gen/sum/v1"
)

// increment sends the same request id with all attempts of the service config. If they fail with the outcome
// UNKNOWN, or without an outcome, the same id may be sent again to find out.
func increment(
	ctx context.Context, client sumv1.CounterServiceClient, counter string, delta int64, requestID string,
) error {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	response, err := client.IncrementCounter(ctx, &sumv1.IncrementCounterRequest{
		Counter: counter, Delta: delta, RequestId: requestID,
	})
	if err == nil {
		fmt.Printf("%d applied=%d revision=%d replayed=%t\n",
			response.GetValue(), response.GetApplied(), response.GetRevision(), response.GetReplayed())
	}
	return err
}

func get(ctx context.Context, client sumv1.CounterServiceClient, counters []string) error {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	response, err := client.BatchGetCounters(ctx, &sumv1.BatchGetCountersRequest{Counters: counters})
	for _, counter := range response.GetCounters() {
		fmt.Println(describeCounter(counter))
	}
	return err
}

// watch prints a number of lines. After a broken stream it opens another one, from the last revision on.
func watch(ctx context.Context, client sumv1.CounterServiceClient, prefix string, lines int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		revision int64
		begun    bool
		retry    backoff
	)
	for {
		stream, err := client.WatchCounters(ctx, &sumv1.WatchCountersRequest{Prefix: prefix, FromRevision: revision})
		for err == nil {
			var response *sumv1.WatchCountersResponse
			if response, err = stream.Recv(); err != nil {
				break
			}
			for _, line := range changes(response, begun) {
				fmt.Println(line)
				if lines--; lines == 0 {
					return nil
				}
			}
			revision, retry, begun = response.GetRevision(), backoff{}, true
		}
		if err != io.EOF && status.Code(err) != codes.Unavailable {
			return err
		}
		time.Sleep(retry.next())
	}
}

func changes(response *sumv1.WatchCountersResponse, begun bool) []string {
	var lines []string
	if response.GetRestarted() && begun {
		lines = append(lines, "restarted") // deletions in between are unknown: the whole state follows
	}
	for _, counter := range response.GetCounters() {
		lines = append(lines, describeCounter(counter))
	}
	for _, name := range response.GetDeleted() {
		lines = append(lines, name+" deleted")
	}
	if response.GetSynced() {
		lines = append(lines, fmt.Sprint("synced ", response.GetRevision()))
	}
	return lines
}

func describeCounter(counter *sumv1.Counter) string {
	return fmt.Sprint(counter.GetName(), " ", counter.GetValue(), " ", counter.GetRevision())
}

// backoff spaces out attempts: each pause is twice the last, up to a second, with jitter, so that the clients
// of a server that died do not all come to the next one together.
type backoff struct{ delay time.Duration }

func (b *backoff) next() time.Duration {
	b.delay = min(max(2*b.delay, 50*time.Millisecond), time.Second)
	return time.Duration(float64(b.delay) * (0.8 + 0.4*rand.Float64()))
}
