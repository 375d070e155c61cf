module thawd.example/goserver

go 1.26
