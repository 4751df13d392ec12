"""---
title: Guides
description: How to do something of your own, and what to look up
repo-actions: false
---"""
from rlgen._site import front_page

print(front_page('Guides'))
