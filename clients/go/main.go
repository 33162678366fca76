// A client of sumd, the gRPC service that adds numbers: see README.md.
package main

//go:generate buf generate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it, healthCheckConfig does nothing
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	sumv1 "sumd/gen/sum/v1"
)

const (
	usage = `Usage:
  go run . add ADDRESSES VALUE...    print the sum of the values
  go run . each ADDRESSES            print the sum of each line of standard input
  go run . load ADDRESSES SECONDS    call Add for that time, and count the failures

  go run . inc ADDRESSES COUNTER DELTA [REQUEST_ID]    add to a counter, exactly once
  go run . get ADDRESSES COUNTER...                    print the values of counters
  go run . watch ADDRESSES PREFIX COUNT                print COUNT lines of state and changes
  go run . record ADDRESSES SESSION_ID SESSION_TIME_MS
      add each line of standard input, COUNTER DELTA, exactly once; the time is that of the
      session's beginning, or 0 if its id is a UUIDv7

ADDRESSES is a comma-separated list of host:port.
`

	// Calls rotate over the servers that report themselves healthy. Sums have no side effects, so a call that a
	// dying server left unanswered is sent again, to the next server. Streams live as long as their input: they
	// have no timeout, so they must not wait for a server for ever either.
	//
	// An increment is sent again, too, but only because each has a request_id here, by which the server counts it
	// once. The streams of counters have no policy: they resume after the last response that they received.
	serviceConfig = `{
		"loadBalancingConfig": [{"round_robin": {}}],
		"healthCheckConfig": {"serviceName": "sum.v1.SumService"},
		"methodConfig": [
			{"name": [{"service": "sum.v1.SumService", "method": "Add"}],
			 "waitForReady": true, "timeout": "5s", "retryPolicy": ` + retryPolicy + `},
			{"name": [{"service": "sum.v1.SumService"}], "retryPolicy": ` + retryPolicy + `},
			{"name": [{"service": "sum.v1.CounterService", "method": "IncrementCounter"},
			          {"service": "sum.v1.CounterService", "method": "BatchGetCounters"}],
			 "waitForReady": true, "timeout": "5s", "retryPolicy": ` + retryPolicy + `}
		]
	}`
	retryPolicy = `{
		"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}`

	callDeadline = 5 * time.Second
	loadWorkers  = 4
	// A line of text is about as long as the message it becomes, and a server takes 16 MiB.
	maxLineBytes = 64 << 20
)

var errUsage = errors.New("wrong usage")

func main() {
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		printError(err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	conn, err := dial(strings.Split(args[1], ","))
	if err != nil {
		return err
	}
	defer conn.Close()
	client, counters := sumv1.NewSumServiceClient(conn), sumv1.NewCounterServiceClient(conn)
	ctx := context.Background()

	switch command, rest := args[0], args[2:]; {
	case command == "add" && len(rest) > 0:
		values, err := parse(rest)
		if err != nil {
			return errUsage
		}
		sum, err := add(ctx, client, values)
		if err == nil {
			fmt.Println(sum)
		}
		return err
	case command == "each" && len(rest) == 0:
		return each(ctx, client)
	case command == "load" && len(rest) == 1:
		seconds, err := strconv.ParseFloat(rest[0], 64)
		if err != nil {
			return errUsage
		}
		return load(ctx, client, time.Duration(seconds*float64(time.Second)))
	case command == "inc" && (len(rest) == 2 || len(rest) == 3 && rest[2] != ""):
		delta, err := parse(rest[1:2])
		if err != nil {
			return errUsage
		}
		requestID := uuid.Must(uuid.NewV7()).String() // which carries its time
		if len(rest) == 3 {
			requestID = rest[2]
		}
		return increment(ctx, counters, rest[0], delta[0], requestID)
	case command == "get" && len(rest) > 0:
		return get(ctx, counters, rest)
	case command == "watch" && len(rest) == 2:
		count, err := strconv.Atoi(rest[1])
		if err != nil || count < 1 {
			return errUsage
		}
		return watch(ctx, counters, rest[0], count)
	case command == "record" && len(rest) == 2:
		millis, err := strconv.ParseInt(rest[1], 10, 64)
		if err != nil {
			return errUsage
		}
		return record(ctx, counters, rest[0], millis)
	}
	return errUsage
}

// dial balances over a fixed list. If a DNS name has an address for each server, none of this is needed:
// grpc.NewClient("dns:///sumd.example:8080", …) does the same.
func dial(addresses []string) (*grpc.ClientConn, error) {
	var servers resolver.State
	for _, address := range addresses {
		servers.Addresses = append(servers.Addresses, resolver.Address{Addr: address})
	}
	list := manual.NewBuilderWithScheme("list")
	list.InitialState(servers)
	// By default, the pauses between attempts to connect begin at a second and grow to two minutes. A call that
	// starts while the server is down could wait in a pause until its deadline, although the server is back.
	reconnect := grpcbackoff.DefaultConfig
	reconnect.BaseDelay, reconnect.MaxDelay = 100*time.Millisecond, time.Second
	return grpc.NewClient("list:///sumd",
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           reconnect,
			MinConnectTimeout: 20 * time.Second, // for one attempt: the default, which has to be repeated here
		}),
		grpc.WithResolvers(list),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func add(ctx context.Context, client sumv1.SumServiceClient, values []int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	response, err := client.Add(ctx, &sumv1.AddRequest{Values: values})
	return response.GetSum(), err
}

// each sends and receives at the same time. If it waited for every response before the next line, a line would
// cost a round trip; if it sent everything first, flow control would stop it.
func each(ctx context.Context, client sumv1.SumServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.AddEach(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- sendLines(stream, os.Stdin) }()

	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return <-sent
		}
		if err != nil {
			return err
		}
		switch result := response.GetResult().(type) {
		case *sumv1.AddEachResponse_Sum:
			fmt.Println(result.Sum)
		case *sumv1.AddEachResponse_Error:
			s := status.FromProto(result.Error)
			fmt.Printf("error: %v %s (%s)\n",
				code.Code(s.Code()), s.Message(), strings.Join(details(s), "; "))
		}
	}
}

// sendLines closes the sending side even after an invalid line, so that the lines before it still get their
// responses.
func sendLines(stream sumv1.SumService_AddEachClient, input io.Reader) error {
	defer stream.CloseSend()
	lines := bufio.NewScanner(input)
	lines.Buffer(nil, maxLineBytes)
	for number := 1; lines.Scan(); number++ {
		values, err := parse(strings.Fields(lines.Text()))
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := stream.Send(&sumv1.AddEachRequest{Values: values}); err != nil {
			return nil // io.EOF, which means that Recv has the reason
		}
	}
	return lines.Err()
}

func load(ctx context.Context, client sumv1.SumServiceClient, duration time.Duration) error {
	var (
		calls, failed atomic.Int64
		firstError    error
		first         sync.Once
		workers       sync.WaitGroup
		end           = time.Now().Add(duration)
	)
	for range loadWorkers {
		workers.Go(func() {
			for n := int64(0); time.Now().Before(end); n++ {
				calls.Add(1)
				sum, err := add(ctx, client, []int64{n, 1})
				if err == nil && sum != n+1 {
					err = fmt.Errorf("%d + 1 was answered by %d", n, sum)
				}
				if err != nil {
					failed.Add(1)
					first.Do(func() { firstError = err })
				}
			}
		})
	}
	workers.Wait()
	fmt.Printf("calls=%d failed=%d\n", calls.Load(), failed.Load())
	return firstError
}

func parse(words []string) ([]int64, error) {
	values := make([]int64, len(words))
	for i, word := range words {
		value, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a 64-bit integer", word)
		}
		values[i] = value
	}
	return values, nil
}

func printError(err error) {
	s, ok := status.FromError(err)
	if !ok { // not from a call
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return
	}
	fmt.Fprintf(os.Stderr, "error: %v: %s\n", code.Code(s.Code()), s.Message())
	for _, detail := range details(s) {
		fmt.Fprintf(os.Stderr, "  %s\n", detail)
	}
}

// details returns the part of an error by which programs decide: the message is for people, and may change.
func details(s *status.Status) []string {
	var texts []string
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			text := fmt.Sprintf("reason=%s, domain=%s", detail.GetReason(), detail.GetDomain())
			for _, key := range slices.Sorted(maps.Keys(detail.GetMetadata())) {
				text += fmt.Sprintf(", %s=%s", key, detail.GetMetadata()[key])
			}
			texts = append(texts, text)
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				texts = append(texts, fmt.Sprintf("%s: %s", violation.GetField(), violation.GetDescription()))
			}
		case *errdetails.RetryInfo:
			texts = append(texts, fmt.Sprintf("retry_delay=%gs", detail.GetRetryDelay().AsDuration().Seconds()))
		default:
			texts = append(texts, fmt.Sprint(detail))
		}
	}
	return texts
}

func reason(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
