package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	sumv1 "sumd/gen/sum/v1"
)

const (
	incrementsPerMessage = 100
	// How long the servers may be away.
	recordPatience = 30 * time.Second
)

var errEndedEarly = status.Error(codes.Unavailable, "the server ended the stream early")

// session is a bulk session, which outlives its streams: what is not acknowledged is kept, and sent again,
// unchanged, on the next one.
type session struct {
	id   string
	time *timestamppb.Timestamp // nil where the id carries it

	input          <-chan []*sumv1.Increment // a message each; nil after the last
	read           uint64                    // how many messages the input had so far
	acknowledged   uint64
	unacknowledged [][]*sumv1.Increment // of the messages acknowledged+1, acknowledged+2, …
	failed         int
	progress       bool // has there been any since this was false?
}

// record adds each line of standard input exactly once. After a crash of the client itself, the same
// command with the same input finishes the work: what is acknowledged already is not sent again.
func record(ctx context.Context, client sumv1.CounterServiceClient, id string, beginMillis int64) error {
	input := make(chan []*sumv1.Increment)
	s := &session{id: id, input: input, progress: true}
	if beginMillis != 0 {
		s.time = timestamppb.New(time.UnixMilli(beginMillis))
	}
	var inputErr error // to be read after the input was closed
	go func() {
		inputErr = readIncrements(os.Stdin, input)
		close(input)
	}()
	err := s.run(ctx, client)
	fmt.Printf("acknowledged=%d failed=%d\n", s.acknowledged, s.failed)
	if err != nil {
		return err
	}
	return inputErr
}

// readIncrements stops at a line that it cannot read, and leaves out the message that was to have it: so
// messages have the same numbers and contents once the line is mended and the command given again.
func readIncrements(input io.Reader, messages chan<- []*sumv1.Increment) error {
	var message []*sumv1.Increment
	lines := bufio.NewScanner(input)
	for number := 1; lines.Scan(); number++ {
		increment, err := parseIncrement(lines.Text())
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if message = append(message, increment); len(message) == incrementsPerMessage {
			messages <- message
			message = nil
		}
	}
	if lines.Err() == nil && len(message) > 0 {
		messages <- message
	}
	return lines.Err()
}

// parseIncrement takes what is before the last space for the counter, whose name may have spaces.
func parseIncrement(line string) (*sumv1.Increment, error) {
	space := strings.LastIndexByte(line, ' ')
	if space < 0 {
		return nil, fmt.Errorf("%q is not a counter and a delta", line)
	}
	delta, err := parse([]string{line[space+1:]})
	if err != nil {
		return nil, err
	}
	return &sumv1.Increment{Counter: line[:space], Delta: delta[0]}, nil
}

// run opens one stream after the other until all is acknowledged.
func (s *session) run(ctx context.Context, client sumv1.CounterServiceClient) error {
	var (
		retry  backoff
		giveUp time.Time
	)
	for {
		err := s.stream(ctx, client)
		switch status.Code(err) {
		case codes.OK:
			return nil
		case codes.Unavailable, // the stream broke, or the server is stopping
			codes.DeadlineExceeded,  // the input was silent for too long
			codes.ResourceExhausted: // the server has no room, or wants to hear first which failures are known here
		default:
			return err
		}
		if s.progress {
			s.progress, retry, giveUp = false, backoff{}, time.Now().Add(recordPatience)
		}
		wait := retry.next()
		if time.Now().Add(wait).After(giveUp) {
			return err
		}
		time.Sleep(wait)
	}
}

// stream does what can be done on one stream. Only this goroutine knows the session; two others carry its
// messages and the answers, for a Send may have to wait until answers are received.
func (s *session) stream(ctx context.Context, client sumv1.CounterServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.RecordIncrements(ctx)
	if err != nil {
		return err
	}
	requests, answers := make(chan *sumv1.RecordIncrementsRequest), make(chan answer)
	go send(stream, requests)
	go receive(ctx, stream, answers)
	err = s.exchange(requests, answers)
	close(requests)
	for err == nil && (<-answers).err == nil {
	}
	return err
}

func (s *session) exchange(requests chan<- *sumv1.RecordIncrementsRequest, answers <-chan answer) error {
	// This says who we are; its answer, how far we are, and the window.
	requests <- &sumv1.RecordIncrementsRequest{SessionId: s.id, SessionTime: s.time, Acknowledged: s.acknowledged}
	var sent, window uint64
	for !s.done() {
		// What is not to be done now is left to a nil channel, which is never ready.
		var input <-chan []*sumv1.Increment
		if uint64(len(s.unacknowledged)) < window {
			input = s.input
		}
		var output chan<- *sumv1.RecordIncrementsRequest
		var next *sumv1.RecordIncrementsRequest
		sent = max(sent, s.acknowledged)
		if sent < s.acknowledged+min(window, uint64(len(s.unacknowledged))) {
			output, next = requests, s.message(sent+1)
		}
		select {
		case message, more := <-input:
			s.keep(message, more)
		case output <- next:
			sent++
		case answer := <-answers:
			if answer.err != nil {
				return answer.err
			}
			s.acknowledge(answer.response)
			window = uint64(answer.response.GetWindow())
		}
	}
	// So the server need not keep the last failures.
	requests <- &sumv1.RecordIncrementsRequest{Acknowledged: s.acknowledged}
	return nil
}

func (s *session) message(sequence uint64) *sumv1.RecordIncrementsRequest {
	return &sumv1.RecordIncrementsRequest{
		Sequence:     sequence,
		Acknowledged: s.acknowledged,
		Increments:   s.unacknowledged[sequence-s.acknowledged-1],
	}
}

func (s *session) done() bool {
	return s.input == nil && len(s.unacknowledged) == 0
}

func (s *session) keep(message []*sumv1.Increment, more bool) {
	if !more {
		s.input = nil
		return
	}
	if s.read++; s.read > s.acknowledged { // else an earlier run has sent it
		s.unacknowledged = append(s.unacknowledged, message)
	}
}

func (s *session) acknowledge(response *sumv1.RecordIncrementsResponse) {
	for _, failure := range response.GetFailures() {
		if failure.GetSequence() <= s.acknowledged {
			continue // known from an earlier stream
		}
		s.failed++
		why := status.FromProto(failure.GetError())
		fmt.Printf("failed %d %d %v reason=%s\n",
			failure.GetSequence(), failure.GetIndex(), code.Code(why.Code()), reason(why))
	}
	news := max(response.GetAcknowledged(), s.acknowledged) - s.acknowledged
	s.unacknowledged = s.unacknowledged[min(news, uint64(len(s.unacknowledged))):]
	s.acknowledged += news
	// A stream on which nothing was left to do has done its part, too.
	s.progress = s.progress || news > 0 || len(s.unacknowledged) == 0
}

type answer struct {
	response *sumv1.RecordIncrementsResponse
	err      error // the last answer's, and only its
}

// send goes on after a failure, whose reason is what Recv returns.
func send(stream sumv1.CounterService_RecordIncrementsClient, requests <-chan *sumv1.RecordIncrementsRequest) {
	for request := range requests {
		_ = stream.Send(request)
	}
	_ = stream.CloseSend()
}

func receive(ctx context.Context, stream sumv1.CounterService_RecordIncrementsClient, answers chan<- answer) {
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			err = errEndedEarly // unless everything is acknowledged, when it is not looked at
		}
		select {
		case answers <- answer{response, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
