// Package main has the cases of gRPC's interop tests that its own client in Go leaves out: compressed messages. It takes the
// flags of that client. https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md describes the cases.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

const (
	requestSize  = 271828
	responseSize = 314159
)

var cases = map[string]func(context.Context, pb.TestServiceClient, *messages) error{
	"client_compressed_unary":     clientCompressedUnary,
	"server_compressed_unary":     serverCompressedUnary,
	"client_compressed_streaming": clientCompressedStreaming,
	"server_compressed_streaming": serverCompressedStreaming,
}

func main() {
	host := flag.String("server_host", "127.0.0.1", "host of the server")
	port := flag.String("server_port", "8080", "port of the server")
	name := flag.String("test_case", "", "name of the case")
	flag.Parse()
	run, ok := cases[*name]
	if !ok {
		log.Fatalf("there is no case %q", *name)
	}
	var seen messages
	conn, err := grpc.NewClient(
		net.JoinHostPort(*host, *port),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(&seen),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, pb.NewTestServiceClient(conn), &seen); err != nil {
		log.Fatalf("%s: %v", *name, err)
	}
}

// messages notes of each message whether it was compressed. The calls are made one after the other.
type messages struct{ sent, received []bool }

func (m *messages) HandleRPC(_ context.Context, event stats.RPCStats) {
	switch message := event.(type) {
	case *stats.OutPayload:
		m.sent = append(m.sent, message.CompressedLength < message.Length)
	case *stats.InPayload:
		m.received = append(m.received, message.CompressedLength < message.Length)
	}
}

func (*messages) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*messages) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*messages) HandleConn(context.Context, stats.ConnStats)                       {}

// expect checks which messages were compressed.
func expect(compressed []bool, expected ...bool) error {
	if !slices.Equal(compressed, expected) {
		return fmt.Errorf("the messages were compressed: %v; expected %v", compressed, expected)
	}
	return nil
}

func clientCompressedUnary(ctx context.Context, client pb.TestServiceClient, seen *messages) error {
	call := func(expected bool, options ...grpc.CallOption) error {
		return unary(ctx, client, &pb.SimpleRequest{ExpectCompressed: &pb.BoolValue{Value: expected}}, options...)
	}
	if err := call(true); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("the probe ended with %v", err)
	}
	if err := call(true, grpc.UseCompressor(gzip.Name)); err != nil {
		return fmt.Errorf("the compressed request: %w", err)
	}
	if err := call(false); err != nil {
		return fmt.Errorf("the plain request: %w", err)
	}
	return expect(seen.sent, false, true, false)
}

func serverCompressedUnary(ctx context.Context, client pb.TestServiceClient, seen *messages) error {
	for _, compressed := range []bool{true, false} {
		request := &pb.SimpleRequest{ResponseCompressed: &pb.BoolValue{Value: compressed}}
		if err := unary(ctx, client, request); err != nil {
			return err
		}
	}
	return expect(seen.received, true, false)
}

// unary calls UnaryCall with the sizes that all cases have.
func unary(ctx context.Context, client pb.TestServiceClient, request *pb.SimpleRequest, options ...grpc.CallOption) error {
	request.ResponseSize = responseSize
	request.Payload = zeros(requestSize)
	response, err := client.UnaryCall(ctx, request, options...)
	if err != nil {
		return err
	}
	return hasSize(response.GetPayload(), responseSize)
}

func clientCompressedStreaming(ctx context.Context, client pb.TestServiceClient, seen *messages) error {
	compressed, plain := message(true, 27182), message(false, 45904)
	probe, err := client.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	// The server may have ended the call already.
	if err := probe.Send(compressed); err != nil && err != io.EOF {
		return err
	}
	if _, err := probe.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("the probe ended with %v", err)
	}

	stream, err := client.StreamingInputCall(ctx, grpc.UseCompressor(gzip.Name))
	if err != nil {
		return err
	}
	if err := stream.Send(compressed); err != nil {
		return err
	}
	// A stream compresses all of its messages, except for one that was encoded for another stream.
	var encoded grpc.PreparedMsg
	if err := encoded.Encode(probe, plain); err != nil {
		return err
	}
	if err := stream.SendMsg(&encoded); err != nil {
		return err
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if size := response.GetAggregatedPayloadSize(); size != 73086 {
		return fmt.Errorf("the payloads have %d bytes; expected 73086", size)
	}
	return expect(seen.sent, false, true, false)
}

func message(compressed bool, size int) *pb.StreamingInputCallRequest {
	return &pb.StreamingInputCallRequest{
		ExpectCompressed: &pb.BoolValue{Value: compressed},
		Payload:          zeros(size),
	}
}

func serverCompressedStreaming(ctx context.Context, client pb.TestServiceClient, seen *messages) error {
	sizes := []int{31415, 92653}
	stream, err := client.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{
		ResponseParameters: []*pb.ResponseParameters{
			{Compressed: &pb.BoolValue{Value: true}, Size: int32(sizes[0])},
			{Compressed: &pb.BoolValue{Value: false}, Size: int32(sizes[1])},
		},
	})
	if err != nil {
		return err
	}
	for _, size := range sizes {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := hasSize(response.GetPayload(), size); err != nil {
			return err
		}
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("the stream ended with %v", err)
	}
	return expect(seen.received, true, false)
}

func zeros(size int) *pb.Payload {
	return &pb.Payload{Body: make([]byte, size)}
}

func hasSize(payload *pb.Payload, size int) error {
	if len(payload.GetBody()) != size {
		return fmt.Errorf("a payload has %d bytes; expected %d", len(payload.GetBody()), size)
	}
	return nil
}
