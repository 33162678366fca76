module netrpc

go 1.26.0
