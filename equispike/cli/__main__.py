from equispike.cli import main

main()
