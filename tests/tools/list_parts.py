"""ListParts as AWS answers it: moto's root element is a ListPartsResponse, which no SDK takes."""


def with_list_parts_result(app):
    def answer(environ, start_response):
        if "uploadId=" not in environ.get("QUERY_STRING", "") or environ["REQUEST_METHOD"] != "GET":
            return app(environ, start_response)
        started = []
        body = b"".join(app(environ, lambda *arguments: started.extend(arguments)))
        body = body.replace(b"ListPartsResponse", b"ListPartsResult")
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        start_response(started[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return answer


if __name__ == "__main__":
    # moto_server, with this put right.
    from moto import server

    made = server.DomainDispatcherApplication
    server.DomainDispatcherApplication = lambda *arguments, **options: with_list_parts_result(made(*arguments, **options))
    server.main()
