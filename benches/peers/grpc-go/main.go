// Command grpc-go is a grpc-go server of sumd's SumService, as in grpc-go's quick start.
package main

import (
	"context"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	sumv1 "sumd/gen/sum/v1"
)

// A million values of 31 bits take 5 MB; the default limit is 4 MiB.
const maxMessageBytes = 16 << 20

type server struct {
	sumv1.UnimplementedSumServiceServer
}

func (s *server) Add(_ context.Context, in *sumv1.AddRequest) (*sumv1.AddResponse, error) {
	var sum int64
	for _, value := range in.GetValues() {
		sum += value
	}
	return &sumv1.AddResponse{Sum: sum}, nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: grpc-go HOST:PORT")
	}
	lis, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatalf("failed to listen: %v", err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes))
	sumv1.RegisterSumServiceServer(s, &server{})
	if err := s.Serve(lis); err != nil {
		log.Fatalf("failed to serve: %v", err)
	}
}
